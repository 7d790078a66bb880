"""dvc.yaml and the rooms of `leanmotion/` as tests read them: scripts, their imports, the rooms that these lie in."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "leanmotion"

NEUTRAL = {"errors", "pipeline"}
"""No result depends on these: what a stage computes is decided elsewhere, so no stage hangs on them."""

ARROWS = {
    "pipeline": set[str](),
    "sprites": set[str](),
    "model": set[str](),
    "probing": {"model"},
    "influence": {"model"},
    "prompts": {"sprites"},
    "videos": {"model"},
    "cost": {"model"},
    "distillation": {"model"},
    "features": {"videos"},
    "clips": {"model", "sprites", "videos"},
    "ranking": {"features", "influence", "model", "probing", "videos"},
    "evaluation": {"features", "ranking", "sprites"},
    "export": {"cost", "distillation", "model"},
    "checking": {"clips", "cost", "distillation", "evaluation", "export", "features", "model", "probing", "prompts"},
    "report": {"features", "influence", "model", "probing", "ranking", "videos"},
    "sprites_training": {"features", "model", "sprites"},
    "study": {
        "distillation",
        "evaluation",
        "features",
        "influence",
        "model",
        "probing",
        "ranking",
        "sprites_training",
        "videos",
    },
    "commands": {"checking", "cost", "influence", "model", "probing", "prompts", "report", "videos"},
}
"""Room -> rooms that it imports, beside `pipeline`. docs/architecture.md draws them."""


def stages() -> dict[str, dict[str, Any]]:
    """Stage name -> its definition in dvc.yaml (of a `foreach`, what stands under `do`)."""
    flow = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in flow.items()}


def script(stage: dict[str, Any]) -> Path:
    """The script that a stage's command runs."""
    return next(ROOT / word for word in str(stage["cmd"]).split() if word.endswith(".py"))


def modules() -> list[Path]:
    """Every module of the package; the `__init__.py` of rooms hold a docstring alone."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def room(module: Path) -> str:
    """The room that a module stands in; `errors` is one by itself."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> frozenset[Path]:
    """Modules of the package that a file imports, anywhere in it, but for typing alone."""
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
    return frozenset(found)


def closure(path: Path) -> set[Path]:
    """Every module that a script uses, directly and through others, but those that no result depends on."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        for file in imports(todo.pop()) - seen:
            if room(file) not in NEUTRAL:
                seen.add(file)
                todo.append(file)
    return seen


def _file(module: str) -> Path | None:
    base = ROOT / Path(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
