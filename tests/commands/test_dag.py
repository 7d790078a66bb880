"""`leanmotion dag`: DVC's graph, families of stages folded, on a screen."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from committed import ROOT
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.commands.dag import Family, folded, lines


def test_families_are_rows_and_implied_links_are_left_out() -> None:
    readers = {
        "first": ["part@a", "part@b", "last"],
        "part@a": ["last"],
        "part@b": ["last"],
    }
    found = folded(["last", "part@a", "part@b", "first"], readers, ["first", "part", "last"])
    assert found == [Family("first", 1, []), Family("part", 2, ["first"]), Family("last", 1, ["part"])]
    assert lines(found) == ["family  stages  after", "first        1", "part         2  first", "last         1  part"]


def test_families_that_wait_for_one_another_keep_both_links() -> None:
    """As rounds do: a list for a round, its student, the next round's list by that student. DVC's own folding fails."""
    readers = {
        "rank": ["rerank@1", "rerank@2"],
        "rerank@1": ["distill@1"],
        "rerank@2": ["distill@2"],
        "distill@1": ["rerank@2", "distill@2", "report"],
        "distill@2": ["report"],
    }
    stages = ["report", "distill@1", "distill@2", "rank", "rerank@1", "rerank@2"]
    found = folded(stages, readers, ["rank", "rerank", "distill", "report"])
    assert [(one.name, one.after) for one in found] == [
        ("rank", []),
        ("rerank", ["rank", "distill"]),
        ("distill", ["rerank"]),
        ("report", ["distill"]),
    ]


def test_families_without_links_are_in_the_order_of_dvc_yaml() -> None:
    assert [one.name for one in folded(["a", "c", "b"], {}, ["c", "b", "unused", "a"])] == ["c", "b", "a"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm"], check=True, capture_output=True)
    return tmp_path


def test_the_command_prints_the_flow_of_dvc_yaml(project: Path) -> None:
    parts = {"foreach": ["a", "b"], "do": {"cmd": "cp x.txt ${item}.txt", "deps": ["x.txt"], "outs": ["${item}.txt"]}}
    stages = {"make": {"cmd": "touch x.txt", "outs": ["x.txt"]}, "part": parts}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    done = CliRunner().invoke(app, ["dag"])
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [["make", "1"], ["part", "2", "make"]]


def test_the_names_of_plots_can_stand_in_a_page() -> None:
    """`dvc plots` puts them into a script as they are: with an apostrophe, that plot is blank."""
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    names = [name for plot in plots for name in plot]
    assert names and all(name.replace(" ", "").isalnum() for name in names)
