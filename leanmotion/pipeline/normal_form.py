"""Code in normal form: statements without what changes no behaviour.

Gone are comments, layout, docstrings, annotations that nothing reads, what only type checkers see, and how imports are
written and sorted. Where annotations make a class's fields, names, order and defaults stay. Gone as well is what only
runs under a setting that was added later (`pipeline/setting_address.py: added`).
"""

import ast
from collections.abc import Sequence
from typing import Any

_PLAIN_BASES = {"ABC", "Exception", "Protocol", "ValueError", "nn.Module", "object", "torch.nn.Module"}
_FIELD_BASES = {"NamedTuple", "TypedDict"}
_NEUTRAL_DECORATORS = {"runtime_checkable"}
_MEANT = {"ClassVar", "InitVar", "KW_ONLY"}
"""What a dataclass reads in an annotation."""


def normal_form(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Statements of a module in normal form; the trees given are used up.

    An import of several names becomes one import a name; imports that stand together are sorted by what they bind.
    """
    return _block(list(statements))


def typing_only(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _added(node: ast.stmt) -> bool:
    """Whether a statement is `if added(...):`, without `else`."""
    if not (isinstance(node, ast.If) and isinstance(node.test, ast.Call)):
        return False
    return ast.unparse(node.test.func) == "added" and not node.orelse


def bound_by(node: ast.Import | ast.ImportFrom) -> str:
    """The name that an import of one name binds."""
    (alias,) = node.names
    if isinstance(node, ast.ImportFrom):
        return alias.asname or alias.name
    return alias.asname or alias.name.split(".")[0]


def _block(statements: list[ast.stmt], *, fields: str = "none") -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for statement in statements:
        if typing_only(statement):
            assert isinstance(statement, ast.If)
            found += _block(statement.orelse)
        elif isinstance(statement, ast.Import):
            found += _sorted_in([ast.Import([alias]) for alias in statement.names], found)
        elif isinstance(statement, ast.ImportFrom):
            found += _sorted_in(
                [ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names], found
            )
        elif isinstance(statement, ast.AnnAssign):
            found += _annotated(statement, fields)
        elif not (isinstance(statement, ast.Pass) or _only_said(statement) or _added(statement)):
            found.append(_NORMALISER.visit(statement))
    return found


def _sorted_in(imports: Sequence[ast.Import | ast.ImportFrom], before: list[ast.stmt]) -> list[ast.stmt]:
    """These imports and those right before them, which are taken from the list, by the names that they bind."""
    together: list[Any] = list(imports)
    while before and isinstance(before[-1], ast.Import | ast.ImportFrom):
        together.insert(0, before.pop())
    return sorted(together, key=bound_by)


def _only_said(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _annotated(statement: ast.AnnAssign, fields: str) -> list[ast.stmt]:
    """`x: int = 1` as what it does: `none` an assignment, `named` a field, `typed` a field of that very type."""
    target = _NORMALISER.visit(statement.target)
    value = None if statement.value is None else _NORMALISER.visit(statement.value)
    names = {node.id for node in ast.walk(statement.annotation) if isinstance(node, ast.Name)}
    if fields == "typed" or (fields == "named" and names & _MEANT):
        return [ast.copy_location(ast.AnnAssign(target, statement.annotation, value, statement.simple), statement)]
    if fields == "named":
        return [ast.copy_location(ast.AnnAssign(target, ast.Constant(...), value, statement.simple), statement)]
    return [] if value is None else [ast.copy_location(ast.Assign([target], value), statement)]


def _fields(node: ast.ClassDef) -> str:
    """What annotations in a class's body make there."""
    decorators = {ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list}
    bases = {ast.unparse(base) for base in node.bases}
    known = bases <= _PLAIN_BASES | _FIELD_BASES and decorators <= _NEUTRAL_DECORATORS | {"dataclass"}
    if not known or node.keywords:
        return "typed"  # pydantic and its like read them
    return "named" if bases & _FIELD_BASES or "dataclass" in decorators else "none"


class _Normaliser(ast.NodeTransformer):
    """Blocks at any depth, and signatures."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        blocks = {
            name: value
            for name, value in ast.iter_fields(node)
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt)
        }
        for name, statements in blocks.items():
            setattr(node, name, [])  # not to be visited twice
            kind = _fields(node) if isinstance(node, ast.ClassDef) else "none"
            blocks[name] = _block(statements, fields=kind)
        super().generic_visit(node)
        for name, statements in blocks.items():
            setattr(node, name, statements or ([ast.Pass()] if name == "body" else []))
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


_NORMALISER = _Normaliser()
