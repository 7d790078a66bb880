"""The modules of a package as their files say: what each name at their top is bound to. Nothing is imported."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from symtable import symtable

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.normal_form import bound_by, normal_form, typing_only

NEUTRAL = frozenset({"errors", "pipeline"})
"""Rooms that no result depends on: what is imported from them counts by its name, and is not followed."""

WHOLE, STATEMENTS = "*", ""


@dataclass(frozen=True, order=True)
class Definition:
    """A name at the top of a module; `*` stands for all of them, the empty one for statements that bind none."""

    module: str
    name: str


Target = Definition | str
"""What a name means: a definition of the package, or where else it comes from."""

Import = ast.Import | ast.ImportFrom


class PackageSource:
    """A package's modules in normal form.

    Args:
        folder: of the package, whose name it has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blocks: dict[str, list[ast.stmt]] = {}
        self._bindings: dict[str, dict[str, list[ast.stmt]]] = {}
        self._typing: dict[str, set[str]] = {}

    def statements(self, this: Definition) -> list[ast.stmt]:
        """The statements that make a definition; none for a whole module, which is made of definitions.

        Where a module's own order counts it falls back to all that the module does: for a name that is bound twice,
        and for statements that bind none, which may change what others have bound.
        """
        if this.name == WHOLE:
            return []
        block = self._block(this.module)
        if this.name == STATEMENTS and not any(self._acts(this.module, node) for node in block):
            return []
        bound = self._names(this.module).get(this.name, [])
        return bound if len(bound) == 1 else [node for node in block if not isinstance(node, Import)]

    def names(self, module: str) -> list[str]:
        """All names at a module's top, sorted."""
        return sorted(self._names(module))

    def lookup(self, module: str, name: str) -> Target | None:
        """What a name at a module's top means, through imports; None where there is no such name.

        Raises:
            LeanmotionError: it is imported from where it is not defined.
        """
        bound = self._names(module).get(name)
        if bound is None:
            inner = f"{module}.{name}"
            return self._module(inner) if self._file(inner) else None
        imports = [node for node in bound if isinstance(node, Import)]
        return self.imported(module, imports[-1]) if len(imports) == len(bound) else Definition(module, name)

    def imported(self, module: str, node: Import) -> Target:
        """What the one name means that an import in a module binds.

        Raises:
            LeanmotionError: a relative import, one of `*`, or of a name that is not there.
        """
        (alias,) = node.names
        if isinstance(node, ast.Import):
            place = alias.name if alias.asname else alias.name.split(".")[0]
            return self._module(place) if self._file(place) else place
        if node.level or node.module is None or alias.name == "*":
            raise LeanmotionError(f"{module}: `{ast.unparse(node)}` cannot be followed: import by full names")
        if self._file(node.module) is None:
            return f"{node.module}.{alias.name}"
        if _neutral(node.module):
            return alias.name
        if (found := self.lookup(node.module, alias.name)) is None:
            raise LeanmotionError(f"{module}: `{ast.unparse(node)}` cannot be followed: there is no such definition")
        return found

    def for_typing(self, module: str, name: str) -> bool:
        """Whether a module imports a name for type checkers alone."""
        self._block(module)
        return name in self._typing[module]

    def has(self, module: str) -> bool:
        """Whether the package has a module of that name."""
        return self._file(module) is not None

    def run_by(self, module: str, seen: set[str]) -> Iterator[str]:
        """Modules that importing one runs: it, packages around it, and what they import at their top, in turn.

        Those in `seen` have run, and the new ones are added to it.
        """
        todo = [module]
        while todo:
            module = todo.pop()
            if module in seen or _neutral(module):
                continue
            seen.add(module)
            yield module
            parts = module.split(".")
            todo += [".".join(parts[:count]) for count in range(1, len(parts))]
            top = [node for node in self._block(module) if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
            todo += [name for node in top for inner in ast.walk(node) for name in self.modules_of(inner)]

    def modules_of(self, node: ast.AST) -> list[str]:
        """Modules of the package that an import names."""
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            named = []
        return [name for name in named if self.has(name)]

    def _file(self, module: str) -> Path | None:
        first, *rest = module.split(".")
        if first != self.folder.name:
            return None
        base = self.folder.joinpath(*rest)
        places = (base / "__init__.py", base.parent / f"{base.name}.py") if rest else (base / "__init__.py",)
        return next((path for path in places if path.is_file()), None)

    def _module(self, module: str) -> Target:
        return module.rpartition(".")[2] if _neutral(module) else Definition(module, WHOLE)

    def _block(self, module: str) -> list[ast.stmt]:
        if module not in self._blocks:
            path = self._file(module)
            assert path is not None, module
            tree = ast.parse(path.read_text(encoding="utf-8"))
            blocks = [node for node in ast.walk(tree) if typing_only(node)]
            hidden = [node for block in blocks for node in ast.walk(block) if isinstance(node, Import)]
            self._typing[module] = {alias.asname or alias.name for node in hidden for alias in node.names}
            self._blocks[module] = normal_form(tree.body)
        return self._blocks[module]

    def _names(self, module: str) -> dict[str, list[ast.stmt]]:
        if module not in self._bindings:
            found: dict[str, list[ast.stmt]] = {}
            for node in self._block(module):
                for name in _bound(node):
                    found.setdefault(name, []).append(node)
            self._bindings[module] = found
        return self._bindings[module]

    def _acts(self, module: str, node: ast.stmt) -> bool:
        """Whether a statement does more than bind names: it counts wherever its module is run."""
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            return False
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # Decorators of our own may register what they decorate.
            names = [n.id for d in node.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)]
            return any(isinstance(self.lookup(module, name), Definition) for name in names)
        if isinstance(node, ast.Assign):
            targets = [leaf for target in node.targets for leaf in ast.walk(target)]
            return any(isinstance(leaf, ast.Attribute | ast.Subscript) for leaf in targets)
        return not isinstance(node, Import | ast.AugAssign)


def _neutral(module: str) -> bool:
    return module.split(".")[1:2] != [] and module.split(".")[1] in NEUTRAL


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, Import):
        return {bound_by(node)}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    symbols = symtable(ast.unparse(node), "", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
