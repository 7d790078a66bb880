"""A micro project in a folder: two levels, seven blocks; every stage can run in this process."""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from committed import ROOT, settings
from tiny import edit_params

from leanmotion.features.pinned import joint_digest


class Project:
    """Settings, weights and artefacts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, finished: Path, folder: Path) -> "Project":
        """A finished clone without code, git and DVC: what stages read and write. Its extractor is pinned."""
        aside = shutil.ignore_patterns(".git*", ".dvc*", "dvc.*", "leanmotion", "stages")
        project = cls(shutil.copytree(finished, folder, ignore=aside))
        files = [folder / "data/extractor" / name for name in ("config.json", "model.safetensors")]
        none = {f"clips__{name}": settings()["clips"][name] for name in ("path", "captions")}
        project.edit(extractor__sha256=joint_digest(files, None), **none)
        return project

    def copy(self, folder: Path) -> "Project":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def edit(self, **changes: Any) -> None:
        """Set settings, as `sampling__steps=3`."""
        edit_params(self.folder / "params.yaml", changes)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside, this process stands in the folder, with its scratch store there."""
        before, scratch = Path.cwd(), os.environ.pop("LEANMOTION_SCRATCH", None)
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(before)
            if scratch is not None:
                os.environ["LEANMOTION_SCRATCH"] = scratch

    def files(self) -> dict[str, bytes]:
        """Content of every file but the scratch store's."""
        found = (p for p in sorted(self.folder.rglob("*")) if p.is_file() and ".scratch" not in p.parts)
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in found}


_PROGRESS = re.compile(r".*: \d+/\d+ |There are modules in")
_LOADED: dict[str, Callable[..., Any]] = {}


def main_of(stage: str) -> Callable[..., Any]:
    """A stage script's `main`."""
    if stage not in _LOADED:
        spec = importlib.util.spec_from_file_location(f"stage_{stage}", ROOT / f"stages/{stage}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _LOADED[stage] = module.main
    return _LOADED[stage]


def run(stage: str, **arguments: Any) -> None:
    """A stage's `main` here and now, with paths as its command line makes them."""
    paths = {"out", "previous", "order", "student"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main_of(stage)(**{k: Path(v) if k in paths else v for k, v in arguments.items()})


def refused(call: Callable[[], Any], *parts: str, within: float = 10.0) -> str:
    """Holds that a call ends as a stage does on bad input: exit code 2, one line with these parts, in time."""
    from leanmotion.pipeline.stage import guarded

    said = io.StringIO()
    # Of this process's own work: other tests may share the cores.
    start = time.process_time()
    code: object = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            guarded(lambda: call())()
        except SystemExit as done:
            code = done.code
    # Progress may come before; and a notice of diffusers, which scripts silence.
    lines = [line for line in said.getvalue().splitlines() if not _PROGRESS.match(line)]
    assert code == 2, f"exit code {code}: {said.getvalue()[-500:]}"
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert all(part in lines[0] for part in parts), f"{lines[0]} lacks {parts}"
    assert time.process_time() - start < within, "took too long"
    return lines[0]


def stage_refused(project: Project, stage: str, arguments: dict[str, Any], *parts: str) -> str:
    """The same of a stage in a project; and no file has appeared, gone or changed."""
    before = project.files()
    line = refused(lambda: run_loud(stage, arguments), *parts)
    after = project.files()
    assert after.keys() == before.keys(), sorted(after.keys() ^ before.keys())
    assert after == before, "a file was changed"
    return line


def run_loud(stage: str, arguments: dict[str, Any]) -> None:
    paths = {"out", "previous", "order", "student"}
    main_of(stage)(**{k: Path(v) if k in paths else v for k, v in arguments.items()})


def python() -> str:
    return sys.executable
