"""The study: its trials, that finished ones are kept, and that the page says what the numbers say."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from committed import weights
from tiny import BLOCKS, tiny_settings

from leanmotion.clips.sources import write_clips_of
from leanmotion.cost.inspection import inspect_teacher
from leanmotion.errors import LeanmotionError
from leanmotion.features.extractors import load_extractor
from leanmotion.influence.tables import Interaction
from leanmotion.model.samplers import Samplers
from leanmotion.pipeline.tables import read_table, write_table
from leanmotion.prompts.splits import prompt_rows
from leanmotion.study.motion_sense import without_motion
from leanmotion.study.plan import Budget, equal_macs, granularity_sets, orders, trials
from leanmotion.study.results_page import figure, page
from leanmotion.study.study import Findings, key_of, run_study
from leanmotion.study.trial import Bench, Trial

ROOT = Path(__file__).parents[2]
META = {"extractor": "sprites", "split": "report", "frames": "8", "interval": "0.9", "teacher_sha256": "a" * 64}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")


def ranking() -> pd.DataFrame:
    n = len(BLOCKS)
    return pd.DataFrame(
        {"block": BLOCKS, "fvd": [5.0, 1, 2, 0, 4, 3, 6][:n], "influence": [5.0, 0, 1, 2, 4, 3, 6],
         "similarity": [0.9, 0.1] * 3 + [0.5], "macs": [10.0] * n}
    )  # fmt: skip


def units() -> pd.DataFrame:
    rows = []
    for i, block in enumerate(BLOCKS):
        names = [block, f"{block}-block0", f"{block}-block0-attn1", f"{block}-block0-attn2"]
        kinds = ["temporal_transformer", "transformer_block", "attention", "attention"]
        sizes = [100, 90, 20, 20]
        rows += [
            {"unit": u, "block": block, "granularity": k, "parameters": s * (1 + i % 2), "macs": s}
            for u, k, s in zip(names, kinds, sizes, strict=True)
        ]
    return pd.DataFrame(rows)


def similarity() -> pd.DataFrame:
    table = units()[["unit", "granularity"]].copy()
    return table.assign(cosine=[1 - i / len(table) for i in range(len(table))])


def interaction() -> Interaction:
    """Independent changes as large as the influences, but for two blocks that undo each other."""
    matrix = np.diag([5.0, 0, 1, 2, 4, 3, 6])
    matrix[4, 5] = matrix[5, 4] = -3.0
    return Interaction(list(BLOCKS), np.stack([matrix, matrix]))


def planned_trials(count: int = 3) -> dict[Budget, list[Trial]]:
    return trials(tiny_settings(), ranking(), similarity(), units(), interaction(), count)


def test_orders() -> None:
    found = orders(ranking(), BLOCKS, seed=0)
    assert [BLOCKS.index(b) for b in found["fvd"]] == [3, 1, 2, 5, 4, 0, 6]
    assert [BLOCKS.index(b) for b in found["influence"]] == [1, 2, 3, 5, 4, 0, 6]
    assert found["reverse"] == found["fvd"][::-1] and found["fvd_per_mac"] == found["fvd"]
    assert found["similarity"][:3] == [BLOCKS[0], BLOCKS[2], BLOCKS[4]], "most similar first"
    randoms = [found[name] for name in ("random_1", "keeping_1", "keeping_2", "keeping_3")]
    assert len({tuple(r) for r in randoms}) == 4 and all(sorted(r) == sorted(BLOCKS) for r in randoms)
    assert all(found[f"keeping_{n}"][-2:] == [BLOCKS[0], BLOCKS[6]] for n in (1, 2, 3)), "the two most important last"
    assert orders(ranking(), BLOCKS, seed=1)["random_1"] != randoms[0]


def test_sets_of_equal_macs_keep_the_two_and_are_no_other_set() -> None:
    macs = {block: 10.0 + i for i, block in enumerate(BLOCKS)}
    target, hubs = [BLOCKS[1], BLOCKS[2]], [BLOCKS[0], BLOCKS[6]]
    found = equal_macs(macs, target, hubs, seed=0)
    assert found and len({tuple(f) for f in found}) == len(found) <= 5
    for gone in found:
        assert not {*gone} & {*hubs} and sorted(gone) != sorted(target)
        assert sum(macs[b] for b in gone) == pytest.approx(sum(macs[b] for b in target), rel=0.05)


def test_granularities_hold_about_equally_many_parameters() -> None:
    table, chosen = units(), granularity_sets(similarity(), units(), BLOCKS[:5])
    # Half of all attention layers' parameters (200 of 400) is less than five blocks'.
    sizes = table.set_index("unit")["parameters"]
    held = {name: int(sizes.loc[list(theirs)].sum()) for name, theirs in chosen.items()}
    assert held["attention"] == 200 and all(abs(n - 200) <= 100 for n in held.values())
    assert chosen["temporal_transformer"][0] == BLOCKS[0]


def test_what_says_most_comes_first() -> None:
    steps = tiny_settings().distillation.steps
    planned = planned_trials()
    small, full = planned[Budget.small], planned[Budget.full]
    first = [(t.order, t.steps) for t in small[:6]]
    assert first == [("fvd", 0), ("influence", 0), *((f"keeping_{n}", 0) for n in (1, 2, 3)), ("sets", 0)]
    assert full[: len(small)] == small and len({key_of(t) for t in full}) == len(full)
    trained = {"depth", "path", "repair"}
    assert {(t.question in trained, t.steps) for t in full} == {(True, steps), (False, 0)}
    # Where deletion did harm: the deepest round that keeps some block, three times, and one block left.
    deep = [(t.order, len(t.removed), t.seed) for t in small if t.steps]
    assert deep == [("fvd_3", 3, 0), ("fvd_6", 6, 0), ("fvd_3", 3, 1), ("fvd_3", 3, 2)]
    path = next(t for t in full if t.question == "path")
    assert [len(d) for d in path.deletions] == [1, 3] and path.removed == small[0].removed
    assert {t.seed for t in full if t.question == "repair" and t.order == "keeping_1"} == {0, 1, 2}
    drawn = {t.order: set(t.removed) for t in full if t.question == "prediction"}
    assert {len(gone) for gone in drawn.values()} == {2, 3, 4, 5}
    assert drawn["sets_2"] == {BLOCKS[1], BLOCKS[2]} and drawn["sets_second_2"] in (
        {BLOCKS[1], BLOCKS[4 - 1]}, {BLOCKS[4], BLOCKS[5]}
    )  # fmt: skip
    assert drawn["fvd_3"] == {BLOCKS[i] for i in (3, 1, 2)} and len(drawn["keeping_1_5"] & {BLOCKS[0], BLOCKS[6]}) == 0
    for count in (0, len(BLOCKS)):
        with pytest.raises(LeanmotionError, match="give --count"):
            planned_trials(count)


def row(order: str, seed: int, arm: str, fvd: float, question: str = "orders", **more: Any) -> dict[str, Any]:
    three = {f"{name}{end}": fvd for name in ("fvd", "paired", "excess") for end in ("", "_low", "_high")}
    return {
        "question": question, "order": order, "granularity": "temporal_transformer", "path": "one_shot", "seed": seed,
        "arm": arm, "steps": 100, "videos": 48, "null": 27.0, "removed": 3, "parameters_removed": 10**6,
        "macs_removed": 10**6, "motion_accuracy": None, "units": [order], "predicted": None, **three, **more,
    }  # fmt: skip


def both(order: str, seed: int, pruned: float, distilled: float, **more: Any) -> list[dict[str, Any]]:
    return [row(order, seed, "pruned", pruned, **more), row(order, seed, "distilled", distilled, **more)]


def alone(order: str, fvd: float, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    ends = {"fvd_low": fvd if low is None else low, "fvd_high": fvd if high is None else high}
    return row(order, 0, "pruned", fvd, steps=0, **ends, **more)


def test_the_page_says_what_the_numbers_say() -> None:
    planned = planned_trials()[Budget.full]
    rows = [alone("fvd", 4.0, 2.0, 6.0), alone("reverse", 90.0, 80.0, 99.0), alone("keeping_1", 5.0, 3.0, 9.0)]
    text = page(rows, planned, META)
    assert f"3 of {len(planned)} trials ran" in text and "not run yet" in text
    assert "- FVD, most first, training seeds 0, 1, 2" in text.split("## Not run")[1]
    start = "Pruned only, 3 blocks deleted, the FVD order against"
    assert f"{start} the reverse order: 4 against 90: it is better." in text
    assert f"{start} the mean of 1 random orders that keep the two: 4 against 5: it is better, but not by more" in text
    rows += [alone("equal_macs_1", 9.0, 8.0), alone("equal_macs_2", 3.5), alone("similarity", 4.0)]
    text = page(rows, planned, META)
    assert f"{start} the best of 2 random sets of equal MACs: 4 against 3.5: it is **not** better." in text
    assert "which delete 1 and 1 million MACs: 4 against 4: it is **not** better." in text
    assert "| FVD, least first | 3 | 1 | 1 | 4 (2 to 6) | - |" in text
    kinds = ("temporal_transformer", "transformer_block")
    rows += [
        alone("similarity", fvd, question="granularity", granularity=g)
        for g, fvd in zip(kinds, (3.0, 2.0), strict=True)
    ]
    text = page(rows, planned, META)
    assert (
        "FVD pruned only, least harm first: 3 transformer blocks (1 million parameters, 1 million MACs) 2; 3 temp"
        in text
    )
    assert "| cosine similarity, transformer blocks (equal parameters) |" in text


def test_the_page_says_what_training_repairs() -> None:
    planned = planned_trials()[Budget.full]
    rows = [*both("fvd_3", 0, 4.0, 2.0, question="depth")]
    text = page([alone("fvd", 4.0), *rows], planned, META)
    assert "3 blocks deleted in the FVD order: FVD 4 pruned only, 2 distilled (one training seed, null 27)." in text
    rows += both("fvd_3", 1, 4.0, 4.0, question="depth") + both("fvd_3", 2, 4.0, 3.5, question="depth")
    rows += both("fvd_6", 0, 80.0, 20.0, question="depth", removed=6, motion_accuracy=0.5)
    text = page(rows, planned, META)
    assert "3 blocks deleted in the FVD order: FVD 4 pruned only, 3.5 distilled (median of 3 training seeds" in text
    assert "6 blocks deleted in the FVD order: FVD 80 pruned only, 20 distilled (one training seed" in text
    assert "motion read 50.0% and 50.0%" in text and "| FVD, least first, 6 blocks, training seed 0 |" in text
    assert "lowered the FVD in 3 of 4 trials and raised it in 0" in text
    # A spread of 2 over the seeds, and a mean of 3.17.
    rows += both("fvd_3", 0, 4.0, 3.0, question="path", path="iterative")
    assert "3 against 3.17. Of the iterative one: It is better, but not by more than training" in page(
        rows, planned, META
    )


def drawn(order: str, units: list[str], fvd: float, predicted: float) -> dict[str, Any]:
    more = {"question": "prediction", "units": units, "predicted": predicted, "removed": len(units)}
    return row(order, 0, "pruned", fvd, **more)


def test_the_page_says_how_far_the_prediction_holds() -> None:
    rows = [
        alone("fvd", 4.0, units=["a", "b"]), alone("sets", 4.0, units=["b", "a"]),
        alone("influence", 3.0, units=["a", "c"]),
        drawn("fvd_2", ["a", "b"], 2.0, 1.0), drawn("sets_2", ["b", "c"], 1.0, 0.5),
        drawn("keeping_1_2", ["c"], 3.0, 2.0), drawn("fvd_4", [*"abcd"], 8.0, 4.0),
        drawn("sets_4", [*"dcba"], 8.0, 4.0), drawn("fvd_5", [*"abcde"], 90.0, 6.0),
    ]  # fmt: skip
    text = page(rows, planned_trials()[Budget.full], META)
    # Six sets but one twice: their orders agree throughout.
    assert "Over 5 sets of 1 to 5 blocks, chosen before any was drawn" in text
    assert "Kendall tau of 1.00" in text
    assert "**The first order fails** at 5 blocks" in text and "off by more than a factor of 3" in text
    assert "it is milder in 1 of them" in text, "at four blocks the two are one set"
    assert "set of least predicted damage against the FVD order, pruned only: it deletes the same blocks." in text
    assert "The influence order against the FVD order, pruned only: 3 against 4: it is better." in text
    assert "| set of least predicted damage | 2 |" in text


def test_the_page_says_whether_the_extractor_feels_motion() -> None:
    still = [row(name, 0, "original", fvd, question="motion", motion=1.0, motion_low=0.9, motion_high=1.1)
             for name, fvd in (("frames_shuffled", 20.0), ("first_frame_repeated", 40.0))]  # fmt: skip
    rows = [*still, *both("fvd", 0, 4.0, 2.0)]
    text = page(rows, planned_trials()[Budget.full], META)
    assert "first frame repeated 40, where other seeds give 27: **it hardly feels motion**" in text
    assert "| frames shuffled | 20 (20 to 20) |" in text
    clips = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 4, 3), np.uint8)
    changed = without_motion(clips)
    assert (changed["first_frame_repeated"] == clips[:, :1]).all()
    for one, other in zip(clips, changed["frames_shuffled"], strict=True):
        assert sorted(f.tobytes() for f in one) == sorted(f.tobytes() for f in other)


def test_the_figure_is_the_same_bytes_again() -> None:
    rows = [*both("fvd", 0, 4.0, 2.0), *both("fvd", 1, 4.0, 2.5), *both("reverse", 0, 90.0, 50.0)]
    assert figure(rows) == figure(rows) and figure(rows).lstrip().startswith("<?xml")


@pytest.fixture
def bench(teacher_folder, tmp_path) -> Bench:
    settings = tiny_settings(
        teacher_folder(levels=2, layers=1), sampling={"height": 16, "width": 16},
        distillation={"validation": 2, "inputs": "teacher", "feature_weight": 1.0},
    )  # fmt: skip
    record, facts = inspect_teacher(settings)
    samplers = Samplers(settings, record)
    write_clips_of(settings, samplers, tmp_path / "clips.parquet")
    write_table(tmp_path / "prompts/report.parquet", "prompts", prompt_rows(settings.prompts, "report"))
    extractor = load_extractor("sprites", path=weights("data/extractor"), batch=8)
    return Bench(
        settings, samplers, extractor, units=pd.DataFrame(facts), clips=tmp_path / "clips.parquet",
        prompts=tmp_path / "prompts",
    )  # fmt: skip


def kept(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows about the extractor, and those of trials."""
    rows = read_table(out, "study").to_pylist()
    return [r for r in rows if r["question"] == "motion"], [r for r in rows if r["question"] != "motion"]


def test_what_is_deleted_and_trained_alike_runs_once(bench: Bench, tmp_path: Path, monkeypatch: Any) -> None:
    """And what is drawn only has no distilled arm."""
    one = Trial("prediction", "fvd_1", "temporal_transformer", (("mid_0",),), 0, 0)
    twin = Trial("prediction", "sets_1", "temporal_transformer", (("mid_0",),), 0, 0)
    planned = {Budget.small: [one, twin], Budget.full: [one, twin]}
    runs, real = [], bench.run
    monkeypatch.setattr(bench, "run", lambda trial: runs.append(trial) or real(trial))
    out = tmp_path / "study.parquet"
    last = list(run_study(bench, planned, Budget.small, out, interaction()))[-1]
    assert runs == [one] and isinstance(last, Findings)
    rows = kept(out)[1]
    assert [(r["order"], r["arm"]) for r in rows] == [("fvd_1", "pruned"), ("sets_1", "pruned")]
    assert rows[0]["fvd"] == rows[1]["fvd"] and rows[0]["units"] == ["mid_0"]


def test_finished_trials_are_kept(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Trial("orders", "fvd", "temporal_transformer", (("mid_0",),), 0, 2)
    fine = Trial("granularity", "similarity", "attention", (("mid_0-block0-attn1", "up_0_0-block0-attn2"),), 0, 2)
    way = Trial("path", "fvd", "temporal_transformer", (("mid_0",), ("mid_0", "up_0_0")), 0, 3)
    planned = {Budget.small: [one], Budget.full: [one, fine, way]}
    out = tmp_path / "study.parquet"
    found = [len(findings.done) for findings in run_study(bench, planned, Budget.small, out, interaction())]
    assert found == [0, 1] and not list(bench.folder.glob("*/*/adapter"))
    still, first = kept(out)
    assert [(r["order"], r["arm"]) for r in still] == [
        ("frames_shuffled", "original"), ("first_frame_repeated", "original")
    ] and all(r["fvd"] > 0 for r in still)  # fmt: skip
    assert (
        first[0]["predicted"] == 1.0
        and [r["arm"] for r in first] == ["pruned", "distilled"]
        and first[0]["units"] == ["mid_0"]
    )
    assert first[1]["distance_before"] > 0 and first[0]["fvd"] > 0

    real, asked = bench.run, []

    def run(trial: Trial, settings: Any = None) -> Any:
        asked.append(trial)
        if trial == way and len(asked) == 2:
            raise KeyboardInterrupt
        return real(trial, settings)

    monkeypatch.setattr(bench, "run", run)
    with pytest.raises(KeyboardInterrupt):
        list(run_study(bench, planned, Budget.full, out, interaction()))
    done = [len(findings.done) for findings in run_study(bench, planned, Budget.full, out, interaction())]
    assert asked == [fine, way, way] and done == [2, 3]
    rows = kept(out)[1]
    assert rows[:2] == first and [r["path"] for r in rows[::2]] == ["one_shot", "one_shot", "iterative"]
    assert page(rows, planned[Budget.full], {**META, "split": bench.split}).count("Nothing is missing") == 1
    # Other settings, other trials: nothing of these may stay in the table.
    shutil.copy(out, tmp_path / "other.parquet")
    other = Trial("orders", "fvd", "temporal_transformer", (("mid_0",),), 1, 2)
    found = next(
        iter(run_study(bench, {Budget.full: [other], Budget.small: []}, Budget.full, tmp_path / "other.parquet"))
    )
    assert found.rows == []
