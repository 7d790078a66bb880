"""The address of code: one SHA-256 over all definitions that decide a result, derived from a few roots.

From the roots every name is followed to the definition that it is bound to: functions, classes and constants of this
package, whichever module they stand in, through imports at the top and inside functions. A definition counts in its
normal form, with what each of its names means: another definition by that one's own content, anything of another
library by its import path. No module of ours is named, so that moving a definition, renaming or splitting a module,
docstrings, comments and annotations leave an address alone; any other constant, default, body or import moves it.

Names are followed, values are not: classes whose objects come in as arguments have to be roots themselves, and
`getattr(module, "name")` would go unseen (tests/pipeline/test_code_address.py holds that there is none).
"""

import ast
import builtins
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from symtable import SymbolTable, symtable
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.module_source import STATEMENTS, WHOLE, Definition, PackageSource, Target
from leanmotion.pipeline.normal_form import bound_by

PACKAGE = Path(__file__).parents[1]

LIBRARIES = ("torch", "diffusers", "transformers")
"""Libraries whose networks, samplers and kernels results come from."""

Root = Callable[..., Any] | str
"""A function or class at the top of a module of ours: itself, or `leanmotion.model.sampler:Sampler`."""

_OF_EVERY_MODULE = {*dir(builtins), "__name__"}
_Chains = dict[str, set[tuple[str, ...]]]


def code_address(*roots: Root, apart: Sequence[Root] = (), package: Path = PACKAGE) -> str:
    """SHA-256 of the code that decides what the roots compute.

    Args:
        roots: what computes the result. Their order counts.
        apart: definitions that count by their name alone: other roots answer for what they compute.
        package: the folder of the package.

    Raises:
        LeanmotionError: a root that there is not, or a name that cannot be followed.
    """
    return _closure(package, tuple(map(_named, roots)), tuple(map(_named, apart))).digest


def definitions(*roots: Root, apart: Sequence[Root] = (), package: Path = PACKAGE) -> dict[Definition, str]:
    """All that `code_address` of the same roots covers, each definition with its code in normal form."""
    return _closure(package, tuple(map(_named, roots)), tuple(map(_named, apart))).texts


@cache
def library_versions() -> dict[str, str]:
    """Library -> its version, of those that results come from."""
    return {name: version(name) for name in LIBRARIES}


class _Closure:
    """Definitions that roots reach, and what each of them uses."""

    def __init__(self, package: Path, roots: tuple[str, ...], apart: tuple[str, ...]) -> None:
        self.source = PackageSource(package)
        self.roots = [self._root(name) for name in roots]
        self.apart = {self._root(name) for name in apart}
        self.texts: dict[Definition, str] = {}
        self.uses: dict[Definition, list[tuple[str, Target]]] = {}
        todo, run = list(self.roots), set[str]()
        while todo:
            this = todo.pop()
            if this in self.texts:
                continue
            inside = _Imports()
            tree = inside.visit(ast.Module(deepcopy(self.source.statements(this)), []))
            self.texts[this] = ast.unparse(tree)
            self.uses[this] = [
                (label, target.name if target in self.apart and isinstance(target, Definition) else target)
                for label, target in self._uses(this, tree, inside.found)
            ]
            todo += [target for _, target in self.uses[this] if isinstance(target, Definition)]
            # Importing a module runs what stands at its top, whatever of it is used.
            for module in [this.module, *(name for node in inside.found for name in self.source.modules_of(node))]:
                statements = [Definition(name, STATEMENTS) for name in self.source.run_by(module, run)]
                todo += [found for found in statements if self.source.statements(found)]

    @cached_property
    def digest(self) -> str:
        """One digest, also of definitions that use one another in circles.

        Each round tells definitions apart by what the round before has told of those that they use. Once a round tells
        no more of them apart, all digests together hold the whole graph, as each names those that it uses.
        """
        found, kinds = dict.fromkeys(self.texts, ""), 0
        while len(set(found.values())) > kinds:
            kinds = len(set(found.values()))
            found = {this: _sha256([text, self._meanings(this, found)]) for this, text in self.texts.items()}
        return _sha256([[found[root] for root in self.roots], sorted(set(found.values()))])

    def _meanings(self, this: Definition, found: dict[Definition, str]) -> list[Any]:
        return [
            [label, "here", found[target]] if isinstance(target, Definition) else [label, "elsewhere", target]
            for label, target in self.uses[this]
        ]

    def _root(self, name: str) -> Definition:
        module, _, wanted = name.partition(":")
        found = self.source.lookup(module, wanted) if self.source.has(module) else None
        if not isinstance(found, Definition):
            raise LeanmotionError(f"{name}: no such definition, so that no address can be made of it")
        return found

    def _uses(self, this: Definition, tree: ast.Module, imports: list[Any]) -> Iterator[tuple[str, Target]]:
        """What the names of a definition mean, in an order that its text alone decides."""
        if this.name == WHOLE:
            for name in self.source.names(this.module):
                if (target := self.source.lookup(this.module, name)) is not None:
                    yield name, target
            return
        chains = _chains(tree)
        for place, node in enumerate(imports):
            target, name = self.source.imported(this.module, node), bound_by(node)
            yield from self._asked(f"import {place} {name}", target, chains.get(name, set()))
        for name, certain in sorted(_free_names(ast.unparse(tree)).items()):
            if (target := self.source.lookup(this.module, name)) is not None:
                yield from self._asked(name, target, chains.get(name, set()))
            elif certain and name not in _OF_EVERY_MODULE and not self.source.for_typing(this.module, name):
                raise LeanmotionError(f"{this.module}: {name!r} of {this.name!r} cannot be followed to its definition")

    def _asked(self, label: str, target: Target, chains: set[tuple[str, ...]]) -> Iterator[tuple[str, Target]]:
        """A target; of a module what is asked of it by name, and all of it where it is handed on as a whole."""
        if not (isinstance(target, Definition) and target.name == WHOLE):
            yield label, target
            return
        for chain in sorted(chains):
            step: Target = target
            words = [label]
            for name in chain:
                if not (isinstance(step, Definition) and step.name == WHOLE):
                    break
                if (deeper := self.source.lookup(step.module, name)) is None:
                    break
                step = deeper
                words.append(name)
            yield ".".join(words), step


def _named(root: Root) -> str:
    return root if isinstance(root, str) else f"{root.__module__}:{root.__qualname__}"


@cache
def _closure(package: Path, roots: tuple[str, ...], apart: tuple[str, ...]) -> _Closure:
    return _Closure(package, roots, apart)


class _Imports(ast.NodeTransformer):
    """Takes imports out of a definition, in its order; the names that they bind stay, where they come from goes."""

    def __init__(self) -> None:
        self.found: list[ast.Import | ast.ImportFrom] = []

    def visit_Import(self, node: ast.Import) -> ast.Import:
        return self._taken(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.Import:
        return self._taken(node)

    def _taken(self, node: ast.Import | ast.ImportFrom) -> ast.Import:
        self.found.append(node)
        return ast.Import([ast.alias(bound_by(node))])


def _chains(tree: ast.AST) -> _Chains:
    """Name -> what is asked of it: `a.b.c` gives (b, c) for a; a name by itself, nothing."""
    found: _Chains = {}
    todo: list[ast.AST] = [tree]
    while todo:
        node, words = todo.pop(), []
        while isinstance(node, ast.Attribute):
            words.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            found.setdefault(node.id, set()).add(tuple(words))
        else:
            todo += ast.iter_child_nodes(node)
    return found


def _free_names(text: str) -> dict[str, bool]:
    """Names that a definition takes from its module, and whether it surely does: a class's own names may be."""
    found: dict[str, bool] = {}

    def look(table: SymbolTable) -> None:
        kind = str(table.get_type())
        for symbol in table.get_symbols():
            name = symbol.get_name()
            if symbol.is_declared_global() or (symbol.is_referenced() and (kind == "module" or symbol.is_global())):
                found[name] = True
            elif symbol.is_referenced() and kind == "class" and symbol.is_local():
                found.setdefault(name, False)
        for child in table.get_children():
            look(child)

    look(symtable(text, "", "exec"))
    return found


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
