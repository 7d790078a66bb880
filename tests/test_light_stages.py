"""Stages that only merge, rank, select or copy, run by a real interpreter: none of them loads a network library."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from committed import ROOT
from reads import stages_of

RUN = """
import atexit, runpy, sys

atexit.register(lambda: print(sorted({"torch", "diffusers", "transformers"} & set(sys.modules)), file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def finished(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's files with its store, in which every clip is drawn."""
    return shutil.copytree(micro / "clone", tmp_path_factory.mktemp("finished") / "project", symlinks=True)


@pytest.mark.parametrize(
    "stage",
    ["prompts", "generate@rank_a", "ablate@mid_0", "probe@transformers", "rank", "rerank@r2", "render@r2", "select"],
)
def test_no_network_library_is_loaded(finished: Path, stage: str) -> None:
    script, *words = shlex.split(stages_of(finished)[stage].command)[1:]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    del environment["LEANMOTION_SCRATCH"]
    command = [sys.executable, "-P", "-c", RUN, str(ROOT / script), *words]
    done = subprocess.run(command, cwd=finished, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]", done.stderr
