"""`leanmotion plan`: DVC's status and graph in words, on a small real DVC project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.commands.plan import lines, plan, reasons
from leanmotion.errors import LeanmotionError

DVC_YAML = """
stages:
  frozen_one:
    cmd: cp source.txt frozen.txt
    frozen: true
    deps: [source.txt]
    outs: [frozen.txt]
  check:
    cmd: echo valid > check.txt
    meta: {constant: true}
    params: [wanted]
    outs: [check.txt]
  first:
    cmd: cp source.txt first.txt
    deps: [source.txt, check.txt]
    params: [wanted]
    outs: [first.txt]
  part:
    foreach: [a, b]
    do:
      cmd: cp first.txt ${item}.txt
      deps: [first.txt]
      outs: ["${item}.txt"]
"""


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text("wanted: 1\n")
    (root / "source.txt").write_text("one\n")
    dvc(root, "init", "--no-scm")
    # Recorded by hand, as the committed teacher is: `dvc repro` does not run what is frozen.
    (root / "frozen.txt").write_text("one\n")
    dvc(root, "commit", "--force", "frozen_one")
    dvc(root, "repro")
    return root


def test_nothing_to_run(project: Path) -> None:
    assert lines(plan(project)) == ["nothing to run: every stage is up to date"]


def test_a_changed_setting_names_its_stage_and_what_is_behind(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "params.yaml").write_text("wanted: 2\n")
    planned = plan(project)
    assert planned.changed == {"check": ["params.yaml: wanted"], "first": ["params.yaml: wanted"]}
    assert sorted(planned.behind) == ["part@a", "part@b"]
    monkeypatch.chdir(project)
    before = (project / "dvc.lock").read_bytes()
    refused = CliRunner().invoke(app, ["plan"])
    assert refused.exit_code == 2 and "would run" not in refused.output
    # This project's settings are its own.
    monkeypatch.setattr("leanmotion.pipeline.settings.load_settings", lambda: None)
    result = CliRunner().invoke(app, ["plan"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "would run:",
        "  check",
        "      params.yaml: wanted",
        "  first",
        "      params.yaml: wanted",
        "then, where what they read comes out different:",
        "  part (2 stages)",
    ]
    assert (project / "dvc.lock").read_bytes() == before
    (project / "params.yaml").write_text("wanted: 1\n")


def test_nothing_is_counted_behind_a_stage_whose_output_never_changes(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("    cmd: echo valid", "    cmd: echo  valid"))
    planned = plan(project)
    assert planned.changed == {"check": ["its command changed"]} and planned.behind == []
    (project / "dvc.yaml").write_text(
        text.replace("    meta: {constant: true}\n", "").replace("cmd: echo v", "cmd: echo  v")
    )
    assert sorted(plan(project).behind) == ["first", "part@a", "part@b"]
    (project / "dvc.yaml").write_text(text)


def test_missing_outputs_of_a_family_share_a_line_and_frozen_stages_are_left_alone(project: Path) -> None:
    for name in ("a.txt", "b.txt", "frozen.txt"):
        (project / name).unlink()
    said = lines(plan(project))
    assert said[:3] == ["would run:", "  part (2 stages)", "      its output is missing"]
    assert said[-1] == "left alone, as it is frozen: frozen_one (`dvc unfreeze frozen_one` first)"
    assert not any("frozen_one" in line for line in said[:-1])
    dvc(project, "checkout")


def test_every_kind_of_entry_is_said() -> None:
    entries = json.loads(
        """[{"changed deps": {"data/x": "modified", "data/y": "deleted", "params.yaml": {"b": "new", "a": "modified"}}},
        {"changed outs": {"data/z": "not in cache", "data/v": "not in cache"}}, "changed command"]"""
    )
    assert reasons(entries) == [
        "data/x is modified", "data/y is missing", "params.yaml: a, b", "its output is not here", "its command changed",
    ]  # fmt: skip
    assert reasons(["always changed"]) == ["always changed"]


def test_outside_a_project_one_line(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match="not inside of a DVC repository"):
        plan(tmp_path)
