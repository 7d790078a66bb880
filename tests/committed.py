"""What tests may take of the project's files: code as it lies here, all else as git holds it.

Whoever has run the pipeline has other metrics, settings and weights than the commit: that is what it is for, and no
test may feel it. So settings are the tests' own (`SETTINGS`), and teacher, extractor and metrics are the commit's.
"""

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]

SETTINGS = Path(__file__).parent / "settings.yaml"
"""Every setting, for the embedded teacher's 21 blocks. No weights are pinned: they may be trained anew."""

_COPIES = tempfile.TemporaryDirectory(prefix="leanmotion-committed-")


def settings() -> dict[str, Any]:
    """The content of `SETTINGS`, yours to change."""
    return yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))


def committed(name: str) -> Path:
    """A file or folder as the commit holds it, copied out of git once a process: do not change it.

    Where no commit holds it (an archive of the sources, say), the test that asks is skipped, and says why.
    """
    place, problem = _copied(name)
    if problem:
        pytest.skip(f"{name} as git holds it: {problem}")
    return place


def default_params() -> Path:
    """params.yaml as committed; where this tree's code reads it no more, the one that lies here, not committed yet."""
    from leanmotion.errors import LeanmotionError
    from leanmotion.pipeline.settings import load_settings

    path = committed("params.yaml")
    try:
        load_settings(path)
    except LeanmotionError:
        return ROOT / "params.yaml"
    return path


def weights(name: str) -> Path:
    """`data/teacher` or `data/extractor`, as committed; outside git what lies here, which is all there is."""
    place, problem = _copied(name)
    return ROOT / name if problem else place


def embedded_project(folder: Path) -> Path:
    """Make the folder a project on the embedded default: these settings, weights pinned, and dvc.yaml of this tree."""
    from leanmotion.features.pinned import joint_digest
    from leanmotion.model.teacher import fingerprint
    from leanmotion.pipeline.settings import PinnedTeacher

    for name in ("teacher", "extractor"):
        shutil.copytree(weights(f"data/{name}"), folder / "data" / name)
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    shutil.copytree(ROOT / "builtin", folder / "builtin")
    # What dvc.yaml names beside has to be there, no more: scripts, rooms, and a table of metrics.
    for path in re.findall(
        r"^ *- ((?:stages|leanmotion|metrics)/[\w./]+)$", (ROOT / "dvc.yaml").read_text("utf-8"), re.M
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    params, extractor = settings(), folder / "data/extractor"
    places = {part: str(folder / params["teacher"][part]) for part in ("base", "adapter")}
    params["teacher"]["sha256"], _ = fingerprint(PinnedTeacher.model_validate({**params["teacher"], **places}))
    params["extractor"]["sha256"] = joint_digest([extractor / "config.json", extractor / "model.safetensors"], None)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return folder


@cache
def _copied(name: str) -> tuple[Path, str]:
    """Where the copy lies, and why there is none."""
    listed, problem = _git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", name)
    names = [path for path in listed.decode().split("\0") if path]
    for path in names:
        target = Path(_COPIES.name) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content, problem = _git("cat-file", "blob", f"HEAD:./{path}")
        target.write_bytes(content)
    return Path(_COPIES.name) / name, problem or ("" if names else "the commit has no such file")


def _git(*words: str) -> tuple[bytes, str]:
    """What git answers about this folder, and what is wrong if it does not."""
    # In a hook, git names its own folder and index in the environment; in a container, the files may be another user's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", f"safe.directory={ROOT}", *words]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    except FileNotFoundError:
        return b"", "git is not installed"
    return done.stdout, done.stderr.decode(errors="replace").strip() if done.returncode else ""
