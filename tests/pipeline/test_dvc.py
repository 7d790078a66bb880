"""What the running `dvc` is sure to run, asked from inside a stage of a real project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leanmotion.pipeline.dvc import edges, will_run

ASKING = """
import json, sys
from pathlib import Path
from leanmotion.pipeline.dvc import will_run
name = sys.argv[1]
own = name if name == "late" else f"one@{name}"
Path(f"said-{name}.json").write_text(json.dumps(will_run(["one@a", "one@b", "one@c", "late"], own)))
Path(f"{name}.txt").write_text(Path("first.txt").read_text() + name)
"""
FLOW = """
stages:
  first:
    cmd: cp source.txt first.txt
    deps: [source.txt]
    outs: [first.txt]
  one:
    foreach: [a, b, c]
    do:
      cmd: python ask.py ${item}
      deps: [ask.py, first.txt]
      outs:
        - ${item}.txt
  middle:
    cmd: cp a.txt middle.txt
    deps: [a.txt]
    outs: [middle.txt]
  late:
    cmd: python ask.py late
    deps: [ask.py, first.txt, middle.txt]
    outs: [late.txt]
  end:
    cmd: cat a.txt b.txt late.txt > end.txt
    deps: [a.txt, b.txt, late.txt]
    outs: [end.txt]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("ask.py", ASKING), ("dvc.yaml", FLOW), ("source.txt", "1")):
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    return tmp_path


def dvc(root: Path, *words: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, env=env, check=True, capture_output=True)


def said(root: Path, name: str) -> list[str]:
    return json.loads((root / f"said-{name}.json").read_text())


def test_a_whole_run_is_sure_of_what_is_out_of_date_and_hangs_on_nothing_that_is(project: Path) -> None:
    dvc(project, "repro")
    # `late` hangs on `middle`, which has not run yet: what it will read is not there to know.
    assert said(project, "a") == ["one@b", "one@c"]
    assert said(project, "c") == [] and said(project, "late") == []


def test_targets_say_what_is_covered(project: Path) -> None:
    dvc(project, "repro", "one@a")
    assert said(project, "a") == []
    dvc(project, "repro", "end")
    # b is wanted by `end`, c by nobody; a is up to date.
    assert said(project, "b") == []
    (project / "source.txt").write_text("2")
    dvc(project, "repro", "end")
    assert said(project, "a") == ["one@b"]
    (project / "source.txt").write_text("3")
    dvc(project, "repro", "one")
    assert said(project, "a") == ["one@b", "one@c"]


def test_single_stages_and_odd_commands_are_sure_of_themselves_alone(project: Path) -> None:
    dvc(project, "repro", "first")
    dvc(project, "repro", "--single-item", "one@a", "one@c")
    assert said(project, "a") == ["one@c"]
    (project / "source.txt").write_text("2")
    dvc(project, "repro", "--downstream", "first")
    assert said(project, "a") == []


def test_nobody_runs_this_process(tmp_path: Path) -> None:
    assert will_run(["one@a"], "one@b", tmp_path) == []


def test_edges_of_a_graph() -> None:
    assert edges('strict digraph {\n"a";\n"a" -> "b@1";\n"a" -> "c";\n}') == {"a": ["b@1", "c"]}
