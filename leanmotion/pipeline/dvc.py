"""What DVC says of its stages, and what the `dvc` command that runs this one is going to run as well."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import psutil

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.platforms import is_program


def require_dvc() -> None:
    """Raise `ModuleNotFoundError` where DVC is not installed: a process that is started would only end."""
    if find_spec("dvc") is None:
        raise ModuleNotFoundError("No module named 'dvc'", name="dvc")


def ask(root: Path, *arguments: str) -> str:
    """What a `dvc` command prints.

    Raises:
        LeanmotionError: not a DVC project, or DVC cannot read it.
        ModuleNotFoundError: DVC is not installed.
    """
    require_dvc()
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, encoding="utf-8")
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise LeanmotionError(f"dvc {arguments[0]}: {said[0].rstrip(':') if said else 'failed'}")
    return done.stdout


def edges(dot: str) -> dict[str, list[str]]:
    """`dvc dag --dot` -> stage -> stages that read what it writes."""
    found: dict[str, list[str]] = {}
    for upstream, downstream in re.findall(r'^"(.+?)" -> "(.+?)";$', dot, re.MULTILINE):
        found.setdefault(upstream, []).append(downstream)
    return found


def drawn_stages(dot: str) -> list[str]:
    """`dvc dag --dot` -> the stages in it, once each."""
    return list(dict.fromkeys(re.findall(r'^"([^"]+)";$', dot, re.MULTILINE)))


def cache_folder(place: Path) -> Path | None:
    """The local cache of the DVC project that a folder lies in; None where it lies in none."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(place), uninitialized=False) as repo:
            return Path(repo.cache.local_cache_dir)
    except (DvcException, OSError):
        return None


def is_dvc(process: psutil.Process) -> bool:
    """Whether a process is a `dvc` command."""
    try:
        return any(is_program(word, "dvc") for word in process.cmdline()[:3])
    except psutil.Error:
        return False


def will_run(stages: Sequence[str], own: str, root: Path = Path()) -> list[str]:
    """Of these stages, those that the command that runs stage `own` is sure to run after it, on inputs as they are now.

    Sure is what DVC itself calls out of date, what the command's targets cover, and what hangs on nothing that is out
    of date. None where no DVC runs this process, or where its command line or its answers cannot be read.
    """
    if (command := running_command()) is None or not (covered := set(_covered(stages, command, root) or ()) - {own}):
        return []
    try:
        drawn = ask(root, "dag", "--dot")
        graph, known = edges(drawn), set(drawn_stages(drawn))
        before = {stage: _upstream(stage, graph) for stage in stages if stage in known & covered}
        # What runs now, DVC says nothing of; what hangs on it will read something else.
        before = {stage: upstream for stage, upstream in before.items() if own not in upstream}
        asked = sorted({*before, *(one for upstream in before.values() for one in upstream)})
        changed = set(json.loads(ask(root, "status", "--json", *asked))) if before else set()
    except (LeanmotionError, ValueError):
        return []
    return [stage for stage in before if stage in changed and not before[stage] & changed]


def running_command() -> list[str] | None:
    """The words after `dvc` of the command that runs this process; None where none does."""
    for process in psutil.Process().parents():
        if is_dvc(process):
            words = process.cmdline()
            return words[next(i for i, word in enumerate(words) if is_program(word, "dvc")) + 1 :]
    return None


def _covered(stages: Iterable[str], command: Sequence[str], root: Path) -> list[str] | None:
    """Stages that a command's targets reach, in the given order; None where it does anything but plain reproduction."""
    try:
        from dvc.cli import parse_args

        asked = parse_args(list(command))
    except (Exception, SystemExit):  # DVC's own parser, which other versions may have elsewhere
        return None
    if asked.cmd not in ("repro", "exp", "experiments") or getattr(asked, "targets", None) is None:
        return None
    if any(getattr(asked, name, False) for name in ("downstream", "glob", "recursive", "pipeline", "dry", "queue")):
        return None
    targets = [target.removeprefix("dvc.yaml:") for target in asked.targets]
    if not targets:
        return list(stages)
    reached = {*targets}
    if not asked.single_item:
        try:
            for target in targets:
                reached |= set(drawn_stages(ask(root, "dag", "--dot", target)))
        except LeanmotionError:
            return None
    return [stage for stage in stages if stage in reached or stage.partition("@")[0] in targets]


def _upstream(stage: str, graph: Mapping[str, Sequence[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [stage]
    while todo:
        behind = todo.pop()
        more = {one for one, readers in graph.items() if behind in readers} - seen
        seen |= more
        todo += more
    return seen
