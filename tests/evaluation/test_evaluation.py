"""Evidence on hand-made features: what is exactly zero, what is counted, what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.evaluation import ORIGINAL, Arm, accuracies, evaluate_split, metrics_of
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.pipeline.settings import Evaluation
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.ranking.fvd import frechet_distance
from leanmotion.sprites.world import held_out_captions

VIDEOS, DIMENSIONS, CELLS = 24, 5, 7
SETTINGS = Evaluation(resamples=40)
BASE = Arm("base", "original", ORIGINAL, 0, 1000, 5000)


def take(variant: str, seeds: str, features: np.ndarray, *, split: str = "select", labels=()) -> pd.DataFrame:
    count = len(features)
    captions = held_out_captions()
    return pd.DataFrame(
        {
            "variant": variant, "split": split, "seeds": seeds, "index": range(count),
            "prompt": [captions[i % len(captions)] for i in range(count)],
            "seed": [i + (1000 if seeds == "b" else 0) for i in range(count)],
            "features": list(features.astype(np.float32)),
            "motion": list(np.abs(features[:, :1]).astype(np.float32) * np.ones((count, CELLS), np.float32)),
            "labels": [list(labels)] * count,
        }
    )  # fmt: skip


def noise(seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (VIDEOS, DIMENSIONS))


def feature_set(tmp_path, *takes: pd.DataFrame, extractor: str = "sprites") -> FeatureSet:
    paths = []
    for i, rows in enumerate(takes):
        paths.append(tmp_path / f"{extractor}_{i}.parquet")
        write_table(paths[-1], "features", rows, meta={"extractor": extractor, "extractor_sha256": "0" * 64})
    return FeatureSet(paths)


@pytest.fixture
def features(tmp_path) -> FeatureSet:
    a, b = noise(0), noise(1)
    return feature_set(
        tmp_path,
        take(ORIGINAL, "a", a),
        take(ORIGINAL, "b", b),
        take("same", "b", b),
        take("near", "b", b + 0.05 * noise(2)),
        take("far", "b", b + 3.0),
    )


def arms(*names: str) -> list[Arm]:
    return [Arm(f"r{i}", "distilled", name, i, 1000 - i, 5000 - i) for i, name in enumerate(names, 1)]


def test_the_teacher_itself_has_no_excess_and_no_distance(features) -> None:
    original, row = evaluate_split(features, BASE, arms("same"), "select", SETTINGS)
    assert (row["excess"], row["excess_low"], row["excess_high"]) == (0.0, 0.0, 0.0)
    assert row["fvd_cross"] == row["null"] == original["fvd_cross"] == original["null"] > 0
    assert (row["fvd_cross_low"], row["fvd_cross_high"]) == (original["fvd_cross_low"], original["fvd_cross_high"])
    # The square root of a product of covariances: exact but for rounding of the trace, of order 10 here.
    assert row["fvd"] == pytest.approx(0, abs=1e-9)
    assert row["paired"] == row["kvd"] == 0.0 or row["kvd"] == pytest.approx(0, abs=1e-12)
    assert original["excess"] == original["fvd"] == original["paired"] == 0.0
    assert (original["round"], original["arm"], original["videos"]) == ("base", "original", VIDEOS)


def test_figures_by_their_definition(features) -> None:
    rows = {row["round"]: row for row in evaluate_split(features, BASE, arms("near", "far"), "select", SETTINGS)}
    a, b, far = (features.features(name, "select", s) for name, s in ((ORIGINAL, "a"), (ORIGINAL, "b"), ("far", "b")))
    null, cross = frechet_distance(a, b), frechet_distance(a, far)
    assert rows["r2"]["null"] == pytest.approx(null)
    assert rows["r2"]["excess"] == pytest.approx(cross / null - 1)
    # A shift by 3 in each of 5 dimensions and nothing else: the distance is its square, kept by float32 to 1e-6.
    assert rows["r2"]["fvd"] == pytest.approx(9 * DIMENSIONS, rel=1e-5)
    assert rows["r2"]["paired"] == pytest.approx(9 * DIMENSIONS, rel=1e-5)
    assert 0 < rows["r1"]["fvd"] < rows["r2"]["fvd"] and rows["r1"]["excess"] < rows["r2"]["excess"]
    for row in rows.values():
        for name in ("fvd_cross", "excess", "fvd", "paired", "motion"):
            assert row[f"{name}_low"] <= row[f"{name}_high"]


def test_rows_fit_their_table_and_metrics_are_flat(features, tmp_path) -> None:
    rows = evaluate_split(features, BASE, arms("near", "far"), "select", SETTINGS)
    write_table(tmp_path / "evaluation.parquet", "evaluation", rows)
    assert read_frame(tmp_path / "evaluation.parquet", "evaluation")["round"].tolist() == ["base", "r1", "r2"]
    metrics = metrics_of(rows, "select")
    assert metrics["r2_distilled_parameters"] == 998 and metrics["base_original_excess"] == 0.0
    assert not any("accuracy" in key for key in metrics) and not any("." in key for key in metrics)
    assert metrics_of(rows, "report") == {}
    assert metrics == metrics_of(evaluate_split(features, BASE, arms("near", "far"), "select", SETTINGS), "select")


def test_other_prompts_seeds_or_counts_are_refused(tmp_path) -> None:
    b = noise(1)
    good = [take(ORIGINAL, "a", noise(0)), take(ORIGINAL, "b", b)]
    for column, spoil in (
        ("seed", take("student", "b", b).assign(seed=range(VIDEOS))),
        ("prompt", take("student", "b", b).assign(prompt="a dog")),
        ("number", take("student", "b", b[:-1])),
    ):
        features = feature_set(tmp_path, *good, spoil)
        with pytest.raises(LeanmotionError, match=f"videos differ in {column}, "):
            evaluate_split(features, BASE, arms("student"), "select", SETTINGS)


def test_a_missing_arm_or_split_is_named(features) -> None:
    with pytest.raises(LeanmotionError, match="no features of 'gone', split select, seeds b"):
        evaluate_split(features, BASE, arms("gone"), "select", SETTINGS)
    with pytest.raises(LeanmotionError, match="no features of 'full', split report, seeds a"):
        evaluate_split(features, BASE, [], "report", SETTINGS)


def test_accuracies_by_hand() -> None:
    """Four clips: colour read right in 4, shape in 3, motion in 2."""
    prompts = ["a red ring falls", "a red ring bounces", "a blue square grows", "two green triangles meet"]
    labels = [
        ["red", "ring", "fall"],
        ["red", "ring", "none"],
        ["blue", "square", "bounce"],
        ["green", "ring", "meet"],
    ]
    rows = pd.DataFrame({"prompt": prompts, "labels": labels})
    found = accuracies(rows, 0.9)
    assert (found["colour_accuracy"], found["shape_accuracy"], found["motion_accuracy"]) == (1.0, 0.75, 0.5)
    # Wilson's interval for 2 of 4: centre 1/2, half-width z sqrt(n / 4 + z^2 / 4) / (n + z^2).
    z = norm.ppf(0.95)
    half = z * np.sqrt(4 / 4 + z**2 / 4) / (4 + z**2)
    assert found["motion_accuracy_low"] == pytest.approx(0.5 - half)
    assert found["motion_accuracy_high"] == pytest.approx(0.5 + half)


def test_no_accuracies_without_heads_or_captions() -> None:
    keys = ["colour_accuracy", "shape_accuracy", "motion_accuracy", "motion_accuracy_low", "motion_accuracy_high"]
    headless = pd.DataFrame({"prompt": ["a red ring bounces"], "labels": [[]]})
    assert accuracies(headless, 0.9) == dict.fromkeys(keys)
    own = pd.DataFrame({"prompt": ["a red ring bounces", "a dog"], "labels": [["red", "ring", "bounce"]] * 2})
    assert accuracies(own, 0.9) == dict.fromkeys(keys)
