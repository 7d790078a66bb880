"""Figures for git: what rounding promises, and that another processor's run writes the same ones."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from committed import ROOT, committed
from finished_run import Run
from hypothesis import given
from hypothesis import strategies as st
from test_importance import rank, similarity, units
from tiny import BLOCKS, tiny_settings

from leanmotion.evaluation import evaluation
from leanmotion.evaluation.evaluation import ORIGINAL, Arm, evaluate_split
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.pipeline.settings import Evaluation
from leanmotion.pipeline.tables import write_table
from leanmotion.probing.probe_sets import probes_of
from leanmotion.probing.similarity import measure_similarity
from leanmotion.ranking import importance
from leanmotion.ranking.rounding import UNIT, evaluation_nulls, rounded, rounded_table

NOISE = 1e-6
"""What another processor does to features and weights, as a share of each."""
FIGURES = st.floats(-1e9, 1e9)
NULLS = st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)


@given(FIGURES, NULLS | st.none())
def test_a_rounded_figure_is_near_short_and_stays(value: float, null: float | None) -> None:
    once = rounded(value, null)
    # Half of the coarser place: at most 10^(1/2) thousandths of the null, or a half of 1e-3 of the value.
    assert abs(once - value) <= max(0.5 * math.sqrt(10) * abs(null or 0) / 1000, 0.5e-3 * abs(value)) * (1 + 1e-9)
    assert float(f"{once:.4g}") == once and rounded(once, null) == once
    assert math.copysign(1, once) == 1 or once < 0  # no -0.0
    assert rounded(-value, null) == -once


@given(st.lists(FIGURES, min_size=2, max_size=2).map(sorted), NULLS)
def test_rounding_keeps_the_order_and_the_sign_of_the_null_does_not_matter(values: list[float], null: float) -> None:
    low, high = (rounded(value, null) for value in values)
    assert low <= high and low == rounded(values[0], -null)


def test_places_by_hand() -> None:
    assert [rounded(v, 8.493) for v in (0.3400678, 3.2636, 58.4123, 890.987)] == [0.34, 3.26, 58.41, 891.0]
    assert [rounded(v, 1687.0) for v in (4.79, 22178.017, -0.4)] == [5.0, 22180.0, 0.0]
    assert [rounded(v, UNIT) for v in (0.99994924, -0.1151500, 61.17110)] == [1.0, -0.115, 61.17]
    assert [rounded(v) for v in (0.000275407069, 513474560, True, None, "fvd")] == [
        0.0002754,
        513474560,
        True,
        None,
        "fvd",
    ]
    for no_null in (0.0, math.nan, None):
        assert rounded(0.123456, no_null) == 0.1235
    table = rounded_table(
        pd.DataFrame({"fvd_low": [0.3412, None], "macs": [513474560, 1], "tied": [True, False]}), {"fvd": 9.0}
    )
    assert table.to_csv(index=False) == "fvd_low,macs,tied\n0.34,513474560,True\n,1,False\n"


# A run that stands for the embedded default's: 48 clips, 64 features of norm 50, FVD between seeds near 10.

CLIPS, WIDE, CELLS = 48, 64, 16
SETTINGS = tiny_settings(prompts={"rank": CLIPS}, ranking={"criterion": "fvd", "resamples": 60})
BASE = Arm("base", "original", ORIGINAL, 0, 1000, 5000)
# r1 deletes what does little and is not trained; r3 is broken, and half repaired.
STUDENTS = {"r1/pruned": 0.001, "r1/distilled": 0.001, "r3/pruned": 0.1, "r3/distilled": 0.05}
Takes = Mapping[tuple[str, str, str], tuple[np.ndarray, np.ndarray]]


def a_run(seed: int, student: int = 0) -> Takes:
    """Features [clips, features] and motion [clips, cells] of every take. `student`: of its training alone."""
    random = np.random.default_rng([seed, 0])
    # Directions of falling weight, as a trained network's features have.
    loads = np.linalg.qr(random.normal(size=(WIDE, WIDE)))[0] * np.exp(-np.arange(WIDE) / 10)
    loads *= 60 / np.linalg.norm(loads)
    prompts = 0.5 * random.normal(size=(CLIPS, WIDE)) @ loads + 5.0
    motion = np.abs(random.normal(size=(CLIPS, CELLS)))

    def clips(near: tuple[np.ndarray, np.ndarray], far: float, random: np.random.Generator = random):
        moved = near[0] + far * (random.normal(size=(CLIPS, WIDE)) @ loads + 2.0)
        return moved, np.abs(near[1] + 3 * far * random.normal(size=(CLIPS, CELLS)))

    originals = {seeds: clips((prompts, motion), 0.1) for seeds in "ab"}
    takes = {("full", split, seeds): originals[seeds] for split in ("rank", "select") for seeds in "ab"}
    names = [*BLOCKS, *(probe.name for probe in _probes())]
    for i, name in enumerate(names):  # from a ten-thousandth of it to all that seeds do
        takes[name, "rank", "a"] = clips(originals["a"], 10 ** (-5 + 4 * i / len(names)))
    for name, far in STUDENTS.items():
        trained = np.random.default_rng([seed, 1 + student * name.endswith("3/distilled")])
        takes[name, "select", "b"] = clips(originals["b"], far, trained)
    return takes


def _probes() -> Iterator[Any]:
    for name, chosen in SETTINGS.probe.sets.items():
        yield from probes_of(name, chosen, similarity(), seed=SETTINGS.probe.seed)


def features_of(takes: Takes, split: str, folder: Path, processor: int) -> FeatureSet:
    """As the embed stage writes them (float32), each number off by `NOISE` of itself on all processors but 0."""
    random = np.random.default_rng([processor, len(split)])
    paths = []
    for (variant, own, seeds), arrays in takes.items():
        if own != split:
            continue
        rows = pd.DataFrame(
            {"variant": variant, "split": split, "seeds": seeds, "index": range(CLIPS), "prompt": "a dog"}
        )
        rows["seed"] = range(CLIPS) if seeds == "a" else range(100, 100 + CLIPS)
        for name, values in zip(("features", "motion"), arrays, strict=True):
            off = NOISE * random.normal(size=values.shape) if processor else 0.0
            rows[name] = list((values * (1 + off)).astype(np.float32))
        rows["labels"] = [[]] * CLIPS
        paths.append(folder / f"{split}{len(paths)}")
        write_table(paths[-1], "features", rows, meta={"extractor": "sprites", "extractor_sha256": "0" * 64})
    return FeatureSet(paths)


def figures(takes: Takes, folder: Path, processor: int = 0) -> dict[str, Any]:
    """All that `rank` and `evaluate` have git keep: two JSON files, and the intervals of two CSV files."""
    found = rank(SETTINGS, features_of(takes, "rank", folder, processor), similarity(), units(), {})
    arms = [Arm(name[:2], name[3:], name, int(name[1]), 900, 4000) for name in STUDENTS]
    selected = features_of(takes, "select", folder, processor)
    rows = evaluate_split(selected, BASE, arms, "select", Evaluation(resamples=60))
    out = {**importance.metrics_of(found, similarity()), **evaluation.metrics_of(rows, "select")}
    for row in found.blocks:
        out |= {f"{k}_{row['block']}": rounded(row[k], found.nulls["fvd"]) for k in ("fvd_low", "fvd_high")}
        out[f"tied_{row['block']}"] = row["tied"]
    for row in rows:
        nulls = evaluation_nulls(row)
        for name in ("fvd_cross", "excess", "fvd"):
            ends = {f"{row['round']}_{row['arm']}_{name}{end}": row[f"{name}{end}"] for end in ("_low", "", "_high")}
            out |= {key: rounded(value, nulls[name]) for key, value in ends.items()}
    return out


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded."""
    for module in ("leanmotion.ranking.rounding", "leanmotion.ranking.importance", "test_rounding"):
        monkeypatch.setattr(sys.modules[module], "rounded", lambda value, null=None: value)


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize("run", range(3))
def test_another_processor_writes_the_same_metrics(run: int, tmp_path: Path) -> None:
    """One figure in some hundreds may lie on an edge of its rounding (ranking/rounding.py): here none does."""
    takes = a_run(run)
    here = figures(takes, tmp_path)
    assert 1 < here["null_fvd"] < 30 and 40 < np.linalg.norm(takes["full", "rank", "a"][0], axis=1).mean() < 60
    for processor in (1, 2):
        assert changed(here, figures(takes, tmp_path, processor)) == set()


def test_without_rounding_hardly_a_figure_is_the_same(exact: None, tmp_path: Path) -> None:
    takes = a_run(0)
    here = figures(takes, tmp_path)
    moved = changed(here, figures(takes, tmp_path, 1))
    counted = ("similarity", "cost_", "tau_")  # of MACs, of signs, or with two decimals
    measured = {k for k, v in here.items() if isinstance(v, float) and v not in (0.0, 1.0)}
    measured = {k for k in measured if not any(word in k for word in counted)}
    assert len(moved & measured) > 0.9 * len(measured) > 80


def test_what_training_moved_shows_and_nothing_else(tmp_path: Path) -> None:
    """Another training of r3 on another processor."""
    moved = changed(figures(a_run(0), tmp_path), figures(a_run(0, student=1), tmp_path, 1))
    assert {name.split("_")[0] for name in moved} == {"r3"} and not {n for n in moved if "pruned" in n}
    assert {f"r3_distilled_{name}" for name in ("fvd", "kvd", "paired", "motion", "excess", "fvd_cross")} <= moved


def test_weights_off_by_a_processors_rounding_give_the_same_cosines(make_unet, make_inputs) -> None:
    def cosines(off: float, steps: tuple[int, ...] = (900, 500, 100)) -> dict[tuple[str, int, str], Any]:
        unet = make_unet(levels=2, layers=1)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for weight in unet.parameters():
                weight *= 1 + off * torch.randn(weight.shape, generator=generator)

            def sample() -> None:
                for step in steps:
                    unet(**make_inputs(timestep=step))

            rows = measure_similarity(unet, sample)
        return {(r["unit"], r["timestep"], k): r[k] for r in rows for k in ("cosine", "residual_cosine")}

    here, there, other = cosines(0.0), cosines(NOISE), cosines(0.1)
    assert sum(here[key] != there[key] for key in here) > len(here) / 4

    def kept(found: Mapping[Any, Any]) -> list[Any]:
        return [rounded(value, UNIT) for value in found.values()]

    assert kept(here) == kept(there)
    assert sum(one != two for one, two in zip(kept(here), kept(other), strict=True)) > len(here) / 4


class Elsewhere(Run):
    """The same artefacts on another processor, which also trained: all figures off by `NOISE`, losses by a tenth."""

    def table(self, name: str, artefact: str, rows: list[dict[str, Any]], **meta: str) -> None:
        off = 0.1 if artefact == "losses" else NOISE

        def elsewhere(key: str, value: Any) -> Any:
            # By the value: what is equal here is equal there. Counts are counts.
            return value * (1 + off * math.sin(1e9 * value)) if isinstance(value, float) and key != "macs" else value

        super().table(name, artefact, [{k: elsewhere(k, v) for k, v in row.items()} for row in rows], **meta)


def test_files_of_plots_differ_in_losses_alone(tmp_path: Path) -> None:
    runs = [Run(tmp_path / "here"), Elsewhere(tmp_path / "there")]
    for run in runs:
        run.write()
    here, there = ({path.name: path.read_text() for path in run.plots.iterdir()} for run in runs)
    assert {name for name in here if here[name] != there[name]} == {"losses.csv"} and here.keys() == there.keys()


def unrounded(metrics: Path) -> list[str]:
    """Figures that are not, or that there are too few."""
    found: list[tuple[str, float]] = []
    for path in metrics.glob("*.json"):
        found += [(f"{path.name} {k}", v) for k, v in json.loads(path.read_text()).items() if isinstance(v, float)]
    for path in (metrics / "plots").glob("*.csv"):
        for name, column in pd.read_csv(path).items():
            found += [(f"{path.name} {name}", v) for v in column.dropna().tolist() if isinstance(v, float)]
    few = [] if len(found) > 1000 else [f"{len(found)} figures"]
    return few + [name for name, value in found if rounded(value) != value]


def test_committed_figures_are_rounded() -> None:
    """Or, between a change of the rule and its commit, those that lie here: they can make this pass, never fail."""
    if in_git := unrounded(committed("metrics")):
        assert unrounded(ROOT / "metrics") == [], f"neither these nor those in git are rounded: {in_git}"


def test_a_diff_of_metrics_fits_a_terminal(tmp_path: Path) -> None:
    """`dvc metrics diff` of the committed metrics with every figure moved: 99 columns at most."""
    (tmp_path / "metrics").mkdir()
    paths = sorted(committed("metrics").glob("*.json"))
    (tmp_path / "dvc.yaml").write_text("metrics:\n" + "".join(f"  - metrics/{path.name}\n" for path in paths))
    for path in paths:
        shutil.copyfile(path, tmp_path / "metrics" / path.name)

    def run(*words: str) -> str:
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    dvc = (sys.executable, "-m", "dvc")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    run("git", "add", "-A")
    run(*git, "commit", "-qm", "x")
    total = 0
    for path in paths:
        values = json.loads(path.read_text())
        total += len(values)
        other = {k: "fvd_per_latency" if isinstance(v, str) else round(1.5 * v + 1, 4) for k, v in values.items()}
        (tmp_path / "metrics" / path.name).write_text(json.dumps(other))
    lines = run(*dvc, "metrics", "diff").splitlines()
    assert len(lines) == total + 1
    assert [line for line in lines if len(line.rstrip()) >= 100] == []
