"""`leanmotion plan`: DVC's status and graph in words, on a small real DVC project."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from committed import ROOT, SETTINGS
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.commands.plan import Plan, lines, plan, reasons, refuse_incomplete
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.sources import refuse_missing, restore
from leanmotion.pipeline.watched_paths import watched

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
    monkeypatch.setattr("leanmotion.commands.plan.load_settings", lambda _: None)
    monkeypatch.setattr("leanmotion.commands.plan.check_paths", lambda _: None)
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
        "how long: not on record here; `leanmotion check --measure` works out what a whole run takes",
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
        "data/x is modified", "data/y is missing", "params.yaml: a, b", "its output is not in DVC's cache",
        "its command changed",
    ]  # fmt: skip
    assert reasons(["always changed"]) == ["always changed"]


def test_times_on_record_are_said_with_their_sum() -> None:
    planned = Plan({"check": ["x"], "part@a": ["y"], "part@b": ["y"]}, ["last", "new"], [])
    said = lines(planned, {"check": 2.0, "part@a": 40.0, "part@b": 30.5, "last": 600.0}.get)
    assert said == [
        "would run:",
        "  check: 2 s",
        "      x",
        "  part (2 stages): 70 s",
        "      y",
        "then, where what they read comes out different:",
        "  last: 10.0 min",
        "  new",
        "at least about 72 s, then 10.0 min, by the longest of each stage's last 5 runs here; "
        "no run of new is on record",
    ]
    some = lines(Plan({"part@a": ["y"], "part@b": ["y"]}, [], []), {"part@a": 40.0}.get)
    assert some[1] == "  part (2 stages): 40 s for 1 of them"
    assert lines(Plan({"check": ["x"]}, [], []), {"check": 2.0}.get)[-1].startswith("at most about 2 s, by the longest")


def test_outside_a_project_one_line(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match="not inside of a DVC repository"):
        plan(tmp_path)


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's own dvc.yaml, with all that it names and no stage makes, as empty files."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(text)
    shutil.copyfile(SETTINGS, tmp_path / "params.yaml")
    for path in re.findall(r"^ *- ((?:stages|leanmotion|metrics)/[\w./]+)$", text, re.MULTILINE):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for _, path, _ in watched(load_settings(tmp_path / "params.yaml")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def test_every_file_that_settings_name_is_missed_by_name(flow: Path) -> None:
    refuse_incomplete()
    for setting, path, _ in list(watched(load_settings(flow / "params.yaml"))):
        (flow / path).rename(flow / "away")
        done = CliRunner().invoke(app, ["plan"])
        assert done.exit_code == 2 and done.stdout == "", setting
        assert len(done.stderr.splitlines()) == 1
        # Several settings may name one path: the first of them is said.
        assert path in done.stderr and "is missing: put it there, or name " in done.stderr
        (flow / "away").rename(flow / path)


def test_every_file_that_dvc_yaml_names_and_no_stage_makes_is_missed_by_name(flow: Path) -> None:
    refuse_missing(flow)
    stages = yaml.safe_load((flow / "dvc.yaml").read_text())["stages"]
    bodies = {name: stage.get("do", stage) for name, stage in stages.items()}
    named = {dep for body in bodies.values() for dep in body["deps"] if "$" not in dep and (flow / dep).exists()}
    assert {"stages/rank.py", "metrics/carry_over.parquet", "leanmotion/model"} <= named
    for path in sorted(named):
        (flow / path).rename(flow / "away")
        with pytest.raises(
            LeanmotionError, match=rf"^{path} is missing, which stage \w+ reads and no stage makes: put"
        ):
            refuse_missing(flow)
        (flow / "away").rename(flow / path)


def test_what_stages_make_may_be_missing(tmp_path: Path) -> None:
    """Outputs, what lies in an output folder, a family's outputs; in every way that DVC lets them be written."""
    stages = {
        "a": {"cmd": "x", "outs": [{"folder": {"cache": False}}], "metrics": ["m.json"]},
        "b": {"foreach": ["1"], "do": {"cmd": "x", "outs": ["v/${item}.bin"]}},
        "c": {
            "cmd": "x",
            "deps": ["folder/one", "m.json", "v/1.bin", "v", "folder", "${teacher.base}"],
            "plots": ["p.csv"],
        },
        "d": {"cmd": "x"},
        "e": {"cmd": "x", "deps": ["p.csv"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    refuse_missing(tmp_path)
    for other in ("folders", "v.bin", "m.json.txt"):
        stages["d"]["deps"] = [other]
        (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        with pytest.raises(LeanmotionError, match=rf"{other} is missing, which stage d reads"):
            refuse_missing(tmp_path)


def test_the_mend_is_dvcs_where_it_was_added_to_dvc(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.dvc").touch()
    for path in ("data/mine", "data/mine/weights.safetensors"):
        assert restore(path, tmp_path) == "restore it (`dvc checkout data/mine.dvc`, or `dvc pull data/mine.dvc`)"


def test_the_mend_is_gits_only_where_git_holds_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "held").touch()
    subprocess.run(["git", "add", "held"], cwd=tmp_path, check=True)
    (tmp_path / "held").unlink()
    assert restore("held", tmp_path) == "restore it (`git checkout -- held`)"
    for never in ("data/i3d_torchscript.pt", "x" * 5000 + "/y", "a\0b"):
        assert restore(never, tmp_path) == "put it there"


@pytest.mark.parametrize(
    "words", [["plan"], ["check"], ["dag"], ["sweep"], ["generate", "--prompt", "x", "-o", "c.gif"]]
)
def test_without_params_every_command_says_the_same(
    flow: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dvc(flow, "init", "--no-scm")
    (flow / "params.yaml").unlink()
    (flow / "data/export/pruned").mkdir(parents=True)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and done.stderr.startswith("error: params.yaml: no such file: run from the project's")


@pytest.mark.parametrize("words", [["check"], ["sweep"]])
def test_other_commands_miss_the_teacher_by_its_setting(flow: Path, words: list[str]) -> None:
    (flow / "data/teacher/adapter").unlink()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and done.stderr.startswith("error: teacher.adapter: data/teacher/adapter is missing")
    assert len(done.stderr.splitlines()) == 1


def test_generate_before_a_run_says_what_makes_the_adapter(flow: Path) -> None:
    done = CliRunner().invoke(app, ["generate", "--prompt", "x", "-o", "c.gif"])
    assert done.exit_code == 2 and "--adapter data/export/pruned: no such folder: `dvc repro export`" in done.stderr
