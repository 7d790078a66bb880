"""The study: its trials, that finished ones are kept, and that the page says what the numbers say."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from committed import weights
from tiny import BLOCKS, tiny_settings

from leanmotion.clips.sources import write_clips_of
from leanmotion.cost.inspection import inspect_teacher
from leanmotion.errors import LeanmotionError
from leanmotion.features.extractors import load_extractor
from leanmotion.model.samplers import Samplers
from leanmotion.pipeline.tables import read_table, write_table
from leanmotion.prompts.splits import prompt_rows
from leanmotion.study.results_page import figure, page
from leanmotion.study.study import Budget, granularity_sets, orders, run_study, trials
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
        {"block": BLOCKS, "fvd": [5.0, 1, 2, 0, 4, 3, 6][:n], "similarity": [0.9, 0.1] * 3 + [0.5], "macs": [10.0] * n}
    )


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


def test_orders() -> None:
    found = orders(ranking(), BLOCKS, seed=0)
    assert [BLOCKS.index(b) for b in found["fvd"]] == [3, 1, 2, 5, 4, 0, 6]
    assert found["reverse"] == found["fvd"][::-1] and found["fvd_per_mac"] == found["fvd"]
    assert found["similarity"][:3] == [BLOCKS[0], BLOCKS[2], BLOCKS[4]], "most similar first"
    randoms = [found[f"random_{n}"] for n in (1, 2, 3)]
    assert len({tuple(r) for r in randoms}) == 3 and all(sorted(r) == sorted(BLOCKS) for r in randoms)
    assert orders(ranking(), BLOCKS, seed=1)["random_1"] != randoms[0]


def test_granularities_hold_about_equally_many_parameters() -> None:
    table, chosen = units(), granularity_sets(similarity(), units(), BLOCKS[:5])
    # Half of all attention layers' parameters (200 of 400) is less than five blocks'.
    sizes = table.set_index("unit")["parameters"]
    held = {name: int(sizes.loc[list(theirs)].sum()) for name, theirs in chosen.items()}
    assert held["attention"] == 200 and all(abs(n - 200) <= 100 for n in held.values())
    assert chosen["temporal_transformer"][0] == BLOCKS[0]


def test_what_says_most_comes_first() -> None:
    settings = tiny_settings()
    planned = trials(settings, ranking(), similarity(), units(), 3)
    small, full = planned[Budget.small], planned[Budget.full]
    first = [(t.order, t.seed) for t in small[:7]]
    assert first == [("fvd", 0), ("reverse", 0), *((f"random_{n}", 0) for n in (1, 2, 3)), ("fvd", 1), ("fvd", 2)]
    assert full[: len(small)] == small and len(set(full)) == len(full)
    assert {t.steps for t in full} == {settings.distillation.steps}
    assert [(t.question, len(t.removed)) for t in small if t.question == "depth"] == [("depth", len(BLOCKS) - 1)]
    deep = trials(settings, ranking(), similarity(), units(), len(BLOCKS) - 1)[Budget.full]
    assert not [t for t in deep if t.question == "depth"], "asked already"
    path = next(t for t in full if t.question == "path")
    assert [len(d) for d in path.deletions] == [1, 3] and path.removed == small[0].removed
    for count in (0, len(BLOCKS)):
        with pytest.raises(LeanmotionError, match="give --count"):
            trials(settings, ranking(), similarity(), units(), count)


def row(order: str, seed: int, arm: str, fvd: float, question: str = "orders", **more: Any) -> dict[str, Any]:
    three = {f"{name}{end}": fvd for name in ("fvd", "paired", "excess") for end in ("", "_low", "_high")}
    return {
        "question": question, "order": order, "granularity": "temporal_transformer", "path": "one_shot", "seed": seed,
        "arm": arm, "steps": 100, "videos": 48, "null": 27.0, "removed": 3, "parameters_removed": 10**6,
        "macs_removed": 10**6, "motion_accuracy": None, **three, **more,
    }  # fmt: skip


def both(order: str, seed: int, pruned: float, distilled: float, **more: Any) -> list[dict[str, Any]]:
    return [row(order, seed, "pruned", pruned, **more), row(order, seed, "distilled", distilled, **more)]


def test_the_page_says_what_the_numbers_say() -> None:
    planned = trials(tiny_settings(), ranking(), similarity(), units(), 3)[Budget.full]
    rows = [*both("fvd", 0, 4.0, 2.0), *both("reverse", 0, 90.0, 50.0), *both("random_1", 0, 9.0, 3.0)]
    text = page(rows, planned, META)
    assert f"3 of {len(planned)} trials ran" in text
    assert "one training seed ran" in text and "not run yet" in text
    assert "- FVD, least first, training seed 1" in text.split("## Not run")[1]
    # A spread of 2 over the seeds: 47 better than reverse, but 0 worse than the random order.
    rows += both("fvd", 1, 4.0, 4.0)
    text = page(rows, planned, META)
    assert "3 against 50. It is better by more than training seeds differ: the gap is 47" in text
    assert "3 against 3. It is **not** better" in text
    rows += both("random_2", 0, 9.0, 6.0)
    assert "4.5. It is better, but not by more than training seeds differ" in page(rows, planned, META)
    assert "lowered the FVD in 4 of 5 trials and raised it in 0" in page(rows, planned, META)
    rows += both("fvd", 2, 4.0, 3.5) + both("fvd", 0, 80.0, 20.0, question="depth", removed=6, motion_accuracy=0.5)
    text = page(rows, planned, META)
    assert "3 blocks deleted in the FVD order: FVD 4 pruned only, 3.5 distilled (median of 3 training seeds" in text
    assert "6 blocks deleted in the FVD order: FVD 80 pruned only, 20 distilled (median of 1 training seeds" in text
    assert "motion read 50.0% and 50.0%" in text and "seed 0 (one block left) |" in text


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


def test_finished_trials_are_kept(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Trial("orders", "fvd", "temporal_transformer", (("mid_0",),), 0, 2)
    fine = Trial("granularity", "similarity", "attention", (("mid_0-block0-attn1", "up_0_0-block0-attn2"),), 0, 2)
    way = Trial("path", "fvd", "temporal_transformer", (("mid_0",), ("mid_0", "up_0_0")), 0, 3)
    planned = {Budget.small: [one], Budget.full: [one, fine, way]}
    out = tmp_path / "study.parquet"
    found = [len(findings.done) for findings in run_study(bench, planned, Budget.small, out)]
    assert found == [0, 1] and not list(bench.folder.glob("*/*/adapter"))
    first = read_table(out, "study").to_pylist()
    assert [r["arm"] for r in first] == ["pruned", "distilled"] and first[0]["units"] == ["mid_0"]
    assert first[1]["distance_before"] > 0 and first[0]["fvd"] > 0

    real, asked = bench.run, []

    def run(trial: Trial, settings: Any = None) -> Any:
        asked.append(trial)
        if trial == way and len(asked) == 2:
            raise KeyboardInterrupt
        return real(trial, settings)

    monkeypatch.setattr(bench, "run", run)
    with pytest.raises(KeyboardInterrupt):
        list(run_study(bench, planned, Budget.full, out))
    done = [len(findings.done) for findings in run_study(bench, planned, Budget.full, out)]
    assert asked == [fine, way, way] and done == [2, 3]
    rows = read_table(out, "study").to_pylist()
    assert rows[:2] == first and [r["path"] for r in rows[::2]] == ["one_shot", "one_shot", "iterative"]
    assert page(rows, planned[Budget.full], {**META, "split": bench.split}).count("Nothing is missing") == 1
    # Other settings, other trials: nothing of these may stay in the table.
    shutil.copy(out, tmp_path / "other.parquet")
    other = Trial("orders", "fvd", "temporal_transformer", (("mid_0",),), 1, 2)
    found = next(
        iter(run_study(bench, {Budget.full: [other], Budget.small: []}, Budget.full, tmp_path / "other.parquet"))
    )
    assert found.rows == []
