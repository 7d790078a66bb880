"""Files that the pipeline reads and no stage makes: with one of them missing, DVC stops at the stage that reads it."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from leanmotion.errors import LeanmotionError

_VARIABLE = re.compile(r"\$\{[^}]*\}")


def refuse_missing(root: Path = Path()) -> None:
    """Refuse a project in which a file is missing that dvc.yaml names and no stage makes.

    Paths that settings name are `watched_paths.check_paths`' to refuse, by the name of the setting.

    Raises:
        LeanmotionError: such a file, the first of them; or no dvc.yaml.
    """
    for stage, path in _missing(root, read_flow(root / "dvc.yaml")):
        raise LeanmotionError(f"{path} is missing, which stage {stage} reads and no stage makes: {restore(path, root)}")


def restore(path: str, root: Path = Path()) -> str:
    """How a file comes to be there, in words: by DVC, where it or a folder above was added to it, by git, or by you."""
    above = [Path(path), *Path(path).parents]
    try:
        added = next((one for one in above if one.name and (root / f"{one}.dvc").is_file()), None)
    except (OSError, ValueError):  # a name that no file can have
        added = None
    if added is not None:
        return f"restore it (`dvc checkout {added}.dvc`, or `dvc pull {added}.dvc`)"
    return f"restore it (`git checkout -- {path}`)" if _in_git(path, root) else "put it there"


def _in_git(path: str, root: Path) -> bool:
    try:
        asked = ["git", "ls-files", "--error-unmatch", "--", path]
        return subprocess.run(asked, cwd=root, capture_output=True).returncode == 0
    except (OSError, ValueError):  # no git, or a name that no file can have
        return False


def read_flow(path: Path) -> dict[str, Any]:
    """Stages of a dvc.yaml by name.

    Raises:
        LeanmotionError: missing, or not readable.
    """
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["stages"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise LeanmotionError(f"dvc.yaml: not readable ({type(error).__name__}): run in the project's folder") from None


def _missing(root: Path, stages: dict[str, Any]) -> Iterator[tuple[str, str]]:
    bodies = {name: stage.get("do", stage) for name, stage in stages.items()}
    outs = [_path(out) for body in bodies.values() for kind in _MADE for out in body.get(kind) or ()]
    above = {str(folder) for out in outs for folder in PurePosixPath(out).parents if folder.name}
    made = [*(_pattern(out, "(/.*)?") for out in outs), *(_pattern(folder) for folder in above)]
    for name, body in bodies.items():
        for path in map(_path, body.get("deps") or ()):
            if "${" not in path and not any(one.fullmatch(path) for one in made) and not (root / path).exists():
                yield name, path


_MADE = ("outs", "metrics", "plots")


def _path(entry: Any) -> str:
    """DVC takes a path, or a path with options below it."""
    return str(next(iter(entry))) if isinstance(entry, dict) else str(entry)


def _pattern(path: str, more: str = "") -> re.Pattern[str]:
    """Of a path in which a family's name may stand as a variable, and what may follow it."""
    return re.compile(".+".join(re.escape(part) for part in _VARIABLE.split(path)) + more)
