"""The micro project: a teacher of random weights, two levels, seven blocks. The real DVC runs it once for all tests."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import warm
from committed import ROOT, SETTINGS, weights
from tiny import BLOCKS, edit_params

from leanmotion.pipeline.tables import write_table
from leanmotion.videos.codec import write_mp4

ROUNDS = {"r2": {"count": 2, "from": "base"}, "r4": {"count": 4, "from": "r2"}}
MICRO: dict[str, Any] = {
    "teacher__base": "micro/base",
    "teacher__adapter": "micro/adapter",
    "teacher__sha256": None,
    "teacher__blocks": BLOCKS,
    "prompts__rank": 4,
    "prompts__select": 4,
    "prompts__report": 4,
    "prompts__confirm": 2,
    "sampling__frames": 3,
    "sampling__steps": 2,
    "sampling__chunk": 1,
    "sampling__threads": 1,
    "sampling__height": 16,
    "sampling__width": 16,
    "similarity__prompts": 2,
    "influence__prompts": 4,
    "influence__steps": 2,
    "influence__batch": 4,
    "profile__rounds": 3,
    "profile__warmup": 1,
    "profile__batch": 1,
    "probe__prompts": None,
    "probe__sets": {"transformers": {"granularity": "temporal_transformer", "counts": [1, 2]}},
    "extractor__sha256": None,
    "ranking__resamples": 20,
    "evaluation__resamples": 20,
    "clips__count": 70,  # three row groups
    "clips__path": "micro/videos",  # where no clips come from before a test asks for them
    "clips__captions": "micro/captions.csv",
    "rounds": ROUNDS,
    "distillation__steps": 6,
    "distillation__batch": 2,
    "distillation__warmup": 0,
    "distillation__checkpoint_every": 2,
    "distillation__validation": 2,
    "report__clips": 2,
}

TRACER = """

def _trace() -> None:
    import importlib

    def wrap(module, owner):
        # Imported here: stages import what draws only when something has to be drawn.
        kind = getattr(importlib.import_module(module), owner)
        inner = kind.__init__

        def traced(*args, **kwargs):
            with open(".scratch/made", "a") as file:
                file.write(owner + "\\n")
            inner(*args, **kwargs)

        kind.__init__ = traced

    wrap("leanmotion.model.sampler", "Sampler")
    wrap("leanmotion.distillation.run", "Run")


_run = run


def run(main, **how):
    _trace()
    if noted := os.environ.get("MICRO_NOTED"):
        from noting import note

        note(main, Path(noted) / os.environ["DVC_STAGE"])
    _run(main, **how)
"""
"""In a module that no stage hangs on and no address covers: notes in .scratch/made what draws and what trains, and,
where it is asked to, which settings a stage reads."""


class Clone:
    """A clone of the project on a micro teacher, under git and DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def new(cls, folder: Path, teacher: Any) -> "Clone":
        """Of this code, the tests' settings and extractor, and a teacher's weights; nothing has run."""
        for name in ("leanmotion", "stages", "builtin"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copyfile(ROOT / name, folder / name)
        shutil.copyfile(SETTINGS, folder / "params.yaml")
        shutil.copytree(weights("data/extractor"), folder / "data/extractor")
        (folder / "metrics").mkdir()
        (folder / "metrics/teacher.json").write_text("{}")
        write_table(folder / "metrics/carry_over.parquet", "carry_over", [])
        shutil.copytree(teacher.base, folder / "micro/base")
        shutil.copytree(teacher.adapter, folder / "micro/adapter")
        (folder / "micro/videos").mkdir()
        for name in ("one", "two"):
            write_mp4(folder / f"micro/videos/{name}.mp4", np.zeros((8, 16, 16, 3), np.uint8))
        (folder / "micro/captions.csv").write_text("file,caption\none.mp4,nothing\ntwo.mp4,nothing either\n")
        with (folder / "leanmotion/pipeline/stage.py").open("a") as file:
            file.write(TRACER)
        clone = cls(folder)
        clone.edit(**MICRO)
        clone.git("init", "-q")
        clone.dvc("init", "-q")
        clone.dvc("config", "core.analytics", "false")
        clone.commit("start")
        return clone

    @classmethod
    def of(cls, finished: Path, folder: Path) -> "Clone":
        """A copy of one: yours to change."""
        shutil.copytree(finished, folder, symlinks=True)
        return cls(folder)

    @property
    def env(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        git = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        kept = {k: v for k, v in os.environ.items() if k != "LEANMOTION_SCRATCH"}
        return {**kept, **git, "PATH": path, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def noted(self, place: Path) -> dict[str, str]:
        """The environment of stages that note in a folder which settings they read."""
        path = f"{self.folder}{os.pathsep}{Path(__file__).parent}"
        return {**self.env, "PYTHONPATH": path, "MICRO_NOTED": str(place)}

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.folder, env=self.env, capture_output=True, text=True)
        return _checked(done).stdout

    def dvc(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        return _checked(self.try_dvc(*words, env=env)).stdout

    def try_dvc(
        self, *words: str, env: Mapping[str, str] | None = None, known: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """`known`: to its stages, which then draw ahead."""
        return warm.run(["-m", "dvc", *words], self.folder, env or self.env, apart=known)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def repro(self, *words: str, env: Mapping[str, str] | None = None) -> set[str]:
        """Run `dvc repro`, of all stages or up to some; the names of the stages that ran."""
        return set(re.findall(r"Running stage '([^']+)'", self.dvc("repro", *words, env=env)))

    def edit(self, **changes: Any) -> None:
        """Set values in params.yaml, `sampling__steps=3` for `sampling.steps`."""
        edit_params(self.folder / "params.yaml", changes)

    def chunks(self) -> set[str]:
        return {path.name for path in (self.folder / ".scratch/chunks").rglob("*.parquet")}


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, f"{done.args}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done
