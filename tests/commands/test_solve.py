"""`leanmotion solve` on a finished run's tables: sets, refusals, the front, and a round written into the settings."""

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from committed import ROOT, SETTINGS, settings
from finished_run import BLOCKS, Run
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.commands.solve import read_problem, rows_of, share_of, solve
from leanmotion.errors import LeanmotionError
from leanmotion.model.student import Student
from leanmotion.pipeline.params_file import with_round
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame
from leanmotion.report.block_times import time_shares


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("solve"))


def asked(run: Run, budgets: dict[str, float], blocks: int | None = None, of: str = "call", best: int = 5) -> Any:
    problem = read_problem(run.data, "temporal_transformer", of)
    return rows_of(problem, solve(problem, budgets, blocks, best))


def test_sets_keep_to_the_budget_with_least_damage(run: Run) -> None:
    found = asked(run, {"macs": 0.9})
    assert [row["damage"] for row in found] == sorted(row["damage"] for row in found)
    units = read_frame(run.data / "units.parquet", "units").set_index("unit")
    total = 3 * units.loc[run.blocks, "macs"].sum()
    for row in found:
        assert row["macs_saved"] == pytest.approx(units.loc[row["removed"], "macs"].sum() / total)
        assert row["macs_saved"] >= 0.1 - 1e-9
        assert sorted([*row["removed"], *row["kept"]]) == sorted(run.blocks)
        assert row["damage_low"] <= row["damage"] * 1.5 and row["damage_high"] > 0
    # Of the motion modules the same share is a third as much.
    assert asked(run, {"macs": 0.7}, of="motion")[0]["removed"] == found[0]["removed"]


def test_savings_in_time_are_the_profiles(run: Run) -> None:
    """Blocks' own times, by a factor that makes all of them together what a call without any saves."""
    whole: Any = read_frame(run.data / "profile.parquet", "profile").set_index("variant")
    profile = whole["saving_fraction"]
    factor = profile["none"] / profile.loc[run.blocks].sum()
    for row in asked(run, {}, blocks=3):
        assert len(row["removed"]) == 3 and row["round"] == ""
        assert row["latency_saved"] == pytest.approx(profile.loc[row["removed"]].sum() * factor)
    one = asked(run, {"latency": 0.95}, blocks=3, of="motion")[0]
    assert one["latency_saved"] == pytest.approx(profile.loc[one["removed"]].sum() * factor / profile["none"])
    assert time_shares(whole, run.blocks).sum() == pytest.approx(profile["none"])
    whole.loc["none", "saving_fraction"] = -0.01  # noise of a clock: nothing to be shared out
    assert time_shares(whole, run.blocks) == pytest.approx(whole.loc[run.blocks, "saving_fraction"].to_numpy())


def test_of_a_round_what_was_measured_counts(run: Run, params: Path, tmp_path: Path) -> None:
    table: Any = read_frame(run.data / "latency.parquet", "latency").set_index("variant")
    calls = table["seconds"]
    saved, none = 1 - calls / calls["full"], 1 - calls["none"] / calls["full"]
    for of, whole in (("call", 1.0), ("motion", none)):
        problem = read_problem(run.data, "temporal_transformer", of)
        assert {this.name: this.removed for this in problem.timed.values()} == {
            name: tuple(gone) for name, gone in run.removed.items()
        }
        number = next(n for n, this in problem.timed.items() if this.name == "r2")
        row = int(np.flatnonzero(problem.sets.ids == number)[0])
        assert problem.savings("latency")[row] == pytest.approx(saved["r2"] / whole)
        assert problem.shares(row)["latency"] == pytest.approx(saved["r2"] / whole)
    # All seven blocks are a round.
    whole = asked(run, {}, 7)[0]
    assert whole["round"] == "all" and whole["latency_saved"] == pytest.approx(saved["all"])
    assert asked(run, {"latency": 1 - saved["all"]})[0]["removed"] == run.blocks
    said = command(run, params, "--blocks", "7").stdout
    assert f"{saved['all'] * 100:.1f}% (all)" in said and "all but" not in said.split("which:")[0]
    # A student of other blocks than the measured call's: its time is not known.
    data = shutil.copytree(run.data, tmp_path / "data", ignore=shutil.ignore_patterns("videos"))
    student = Student.read(data / "students/r2")
    replace(student, removed=tuple(b for b in run.blocks if b not in student.removed)[:2]).write()
    timed = read_problem(data, "temporal_transformer", "call").timed.values()
    assert [this.name for this in timed] == ["all"]
    (data / "latency.parquet").unlink()
    assert not read_problem(data, "temporal_transformer", "call").timed


@pytest.mark.parametrize(
    ("budgets", "blocks", "said"),
    [
        ({"macs": 0.1}, None, r"--macs 10.0%: 66.7% to 100.0% of the whole call can be left: stay"),
        ({"parameters": 1.0}, None, r"--parameters 100.0%: .* stay in between"),
        ({"macs": 0.7}, 1, r"--macs 70.0%: .* can be left, the other budgets kept: stay"),
        ({}, 8, r"--blocks 8: 1 to 7 of them can go"),
        ({}, 0, r"--blocks 0"),
        ({}, None, r"say a budget"),
    ],
)
def test_what_cannot_be_reached_is_said_with_what_can(run: Run, budgets: Any, blocks: Any, said: str) -> None:
    with pytest.raises(LeanmotionError, match=said):
        asked(run, budgets, blocks)


def test_other_words_are_refused(run: Run) -> None:
    for text in ("70", "x%", "-1%", "1.2"):
        with pytest.raises(LeanmotionError, match=r"as 70% or 0\.7"):
            share_of(text, "latency")
    assert share_of("70%", "latency") == share_of("0.7", "latency") == 0.7
    with pytest.raises(LeanmotionError, match="--granularity blocks"):
        read_problem(run.data, "blocks", "call")
    with pytest.raises(LeanmotionError, match="--of module: name one of call, motion"):
        read_problem(run.data, "attention", "module")
    attentions = read_problem(run.data, "attention", "call")
    assert len(rows_of(attentions, solve(attentions, {"macs": 0.95}, None, 2))) == 2
    with pytest.raises(LeanmotionError, match="only whole blocks are timed"):
        solve(attentions, {"latency": 0.9}, None, 1)


def command(run: Run, params: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["solve", "--data", str(run.data), "--params", str(params), *words])


@pytest.fixture
def params(tmp_path: Path) -> Path:
    raw = settings()
    raw["teacher"]["blocks"] = BLOCKS[7]
    raw["rounds"] = {"r2": {"count": 2, "from": "base"}}
    (tmp_path / "params.yaml").write_text("# mine\n" + yaml.safe_dump(raw, sort_keys=False))
    return tmp_path / "params.yaml"


def test_the_best_set_becomes_a_round(run: Run, params: Path, tmp_path: Path) -> None:
    front = tmp_path / "front.csv"
    done = command(run, params, "--blocks", "4", "--pareto", str(front), "--write", "lean")
    assert done.exit_code == 0, done.output
    assert "predicted damage" in done.output and "dvc repro" in done.output
    assert "next: " not in done.stdout, "it is written already"
    assert params.read_text().startswith("# mine\n")
    added = load_settings(params).rounds["lean"]
    assert added.from_ == "base" and added.blocks == asked(run, {}, 4)[0]["removed"]
    assert load_settings(params).rounds["r2"].count == 2
    rows = list(csv.DictReader(front.open()))
    for name in ("latency_saved", "damage"):
        assert (np.diff([float(row[name]) for row in rows]) > 0).all()
    assert [len(row["removed"].split()) for row in rows] == [int(row["deleted"]) for row in rows]


def test_the_table_says_what_its_words_mean_and_what_to_do_next(run: Run, params: Path) -> None:
    said = " ".join(command(run, params, "--blocks", "3").stdout.split())
    for words in (
        "predicted damage: ",
        "It is no FVD",
        "saved: the share of a UNet call",
        "which: ",
        "profile.parquet",
    ):
        assert words in said
    assert "next: the same command with `--write lean`" in said
    parts = " ".join(
        command(run, params, "--macs", "95%", "--granularity", "attention", "--of", "motion").stdout.split()
    )
    assert "saved: the share of the motion modules" in parts
    assert "next: " not in parts and "profile.parquet" not in parts, (
        "rounds delete whole blocks, and only these are timed"
    )


def test_a_round_that_cannot_be_written_leaves_the_settings(run: Run, params: Path) -> None:
    before = params.read_bytes()
    for words, said in (
        (("--write", "r2"), "rounds.r2: is there already"),
        (("--write", "two words"), "rounds"),
        (("--write", "base"), "rounds.base"),
        (("--write", "fine", "--granularity", "attention"), "whole blocks"),
    ):
        done = command(run, params, "--blocks", "3", *words)
        assert done.exit_code == 2 and params.read_bytes() == before, words
        assert said in done.stderr


@pytest.mark.parametrize(
    "rounds",
    [
        "rounds:\n  r1: {count: 1, from: base}\n\nselection: x\n",
        "rounds:\n  r1:\n    count: 1\n    from: base\n# about what follows\nselection: x\n",
        "selection: x\nrounds:  # all\n    r1: {count: 1,\n         from: base}  # one",
    ],
)
def test_a_round_is_added_in_its_place(tmp_path: Path, rounds: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(rounds)
    text = with_round(path, "lean", ["mid_0", "up_0_0"])
    raw = yaml.safe_load(text)
    expected = {"r1": {"count": 1, "from": "base"}, "lean": {"blocks": ["mid_0", "up_0_0"], "from": "base"}}
    assert raw == {"selection": "x", "rounds": expected}
    assert [line for line in text.splitlines() if "lean" not in line] == rounds.splitlines()


def test_rounds_in_one_line_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("rounds: {r1: {count: 1, from: base}}\n")
    with pytest.raises(LeanmotionError, match="a line of its own"):
        with_round(path, "lean", ["mid_0"])


def test_it_needs_no_torch() -> None:
    """Seconds of imports, where numpy answers in a tenth of one."""
    line = "import sys; from leanmotion.commands import solve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], cwd=ROOT).returncode == 0
    assert SETTINGS.is_file()
