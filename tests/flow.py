"""dvc.yaml as a test reads it: each stage's script, and the modules that can change what it writes."""

import ast
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]

EXEMPT = {
    "claims": "says which process draws a chunk, never what; changes no result",
    "errors": "says what is wrong; changes no result",
    "summary": "shows what was found; changes no result",
    "progress": "shows progress; changes no result",
    "stage": "runs a script's main; changes no result",
    "launch": "starts ranks; results do not depend on their number",
    "memory": "where weights lie, and what is computed twice to save memory; changes no result",
    "ranks": "divides work over processes; chunks keep their bytes, sums of gradients all but their last bits",
    "refusal": "says what is wrong with a setting; changes no result",
    "settings": "reads params.yaml, whose values DVC tracks as params",
    "tables": "the container; a table of another schema is refused when read",
    "records": "the container; a record that is not what was written is refused when read",
    "writing": "how a file gets its name; changes no content",
    "schemas": "the container; a table of another schema is refused when read",
}
"""Modules that no stage depends on, with the reason."""


def stages() -> dict[str, dict[str, Any]]:
    """Stage name -> its definition in dvc.yaml (of a `foreach`, what stands under `do`)."""
    flow = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in flow.items()}


def script(stage: dict[str, Any]) -> Path:
    """The script that a stage's command runs."""
    return next(ROOT / word for word in str(stage["cmd"]).split() if word.endswith(".py"))


def imports(path: Path) -> set[Path]:
    """Files of the package that a file imports, anywhere in it, but for typing alone."""
    found: set[Path] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "leanmotion" and (file := _file(name)) and file.name != "__init__.py":
                found.add(file)
    return found


def closure(path: Path) -> set[str]:
    """Every module that a script uses, directly and through others, as paths from the root; exempt ones left out."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        for file in imports(todo.pop()) - seen:
            if file.stem in EXEMPT and file.parent == ROOT / "leanmotion":
                continue
            seen.add(file)
            todo.append(file)
    return {file.relative_to(ROOT).as_posix() for file in seen}


def _file(module: str) -> Path | None:
    base = ROOT / Path(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
