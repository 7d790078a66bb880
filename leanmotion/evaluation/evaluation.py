"""Rounds -> evidence: distances with intervals, the excess over the null, and caption accuracy.

For one split, with the original's videos under seeds a and b, and a student's under seeds b:
  null     = FVD(original b; original a)       what another set of seeds changes by itself (and KVD, paired, motion)
  cross    = FVD(student b; original a)        same number of videos, so the same bias
  excess   = cross / null - 1                  what the student adds to it
  fvd, paired, motion: student b against original b, clip by clip with the same seeds: much sharper.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from leanmotion.errors import LeanmotionError
from leanmotion.features.feature_tables import HEADS, FeatureSet
from leanmotion.features.video_tables import require_pairs
from leanmotion.pipeline.settings import Evaluation
from leanmotion.ranking.fvd import (
    Estimate,
    frechet_distances,
    kernel_distance,
    mean_estimate,
    motion_measure,
    paired_distance,
)
from leanmotion.ranking.resampling import complementary_halves, interval_of, kernel_null, recentre, subset_distances
from leanmotion.ranking.rounding import evaluation_nulls, rounded_row

ORIGINAL = "full"
SCORES = ("alignment", "consistency")
"""What a CLIP model says, where `evaluation.clip` names one."""


@dataclass(frozen=True)
class Arm:
    """What is evaluated: a round's videos with or without distillation, by its name in the feature tables."""

    round: str
    arm: str
    variant: str
    removed: int
    parameters: int
    macs: int


def evaluate_split(
    features: FeatureSet, original: Arm, arms: Sequence[Arm], split: str, settings: Evaluation
) -> list[dict[str, Any]]:
    """One row an arm (artefact `evaluation`), all from one shared set of half-samples.

    Args:
        features: Of the original (seeds a and b) and of every arm (seeds b) on this split.
        original: The teacher; its row comes first, with no excess and no distance.
        arms: What to evaluate.
        split: The split.
        settings: Resamples, interval, seed.

    Raises:
        LeanmotionError: An arm's clips were not drawn from the original's prompts and seeds.
    """
    first, second = features.features(ORIGINAL, split, "a"), features.features(ORIGINAL, split, "b")
    still = features.motion(ORIGINAL, split, "b")
    twin = features.take(ORIGINAL, split, "b")
    for arm in arms:
        require_pairs(twin, features.take(arm.variant, split, "b"), name=arm.variant)
    require_pairs(features.take(ORIGINAL, split, "a"), twin, name="the null", same_seeds=False)
    students = {arm.variant: features.features(arm.variant, split, "b") for arm in arms}
    # In the cross comparison the last one is the null: the original itself under the other seeds.
    cross = _resampled(first, {**students, ORIGINAL: second}, settings)
    same = _resampled(second, students, settings)
    null = cross.full[-1]
    if not null > 0:
        # Every excess is a ratio to it.
        raise LeanmotionError(
            f"split {split}: the original's clips under other seeds are the same clips: see prompts.seed"
        )
    ratio = cross.draws / cross.draws[:, -1:] - 1
    nulls = {
        "null": float(null),
        "null_kvd": kernel_null(
            first, second, complementary_halves(len(first), settings.resamples, seed=settings.seed)
        ),
        "null_paired": paired_distance(first, second).value,
        "null_motion": motion_measure(features.motion(ORIGINAL, split, "a"), still).value,
    }
    excess_low, excess_high = interval_of(cross.full / null - 1, ratio, settings.interval)
    rows = [_original_row(original, split, cross, nulls, features, settings)]
    for i, arm in enumerate(arms):
        theirs = students[arm.variant]
        moved = motion_measure(still, features.motion(arm.variant, split, "b"), interval=settings.interval)
        rows.append(
            {
                **_labels(arm, split, len(first)),
                **nulls,
                **_three("fvd_cross", Estimate(cross.full[i], cross.low[i], cross.high[i])),
                **_three("excess", Estimate(cross.full[i] / null - 1, excess_low[i], excess_high[i])),
                **_three("fvd", Estimate(same.full[i], same.low[i], same.high[i])),
                "kvd": kernel_distance(second, theirs, paired=True),
                **_three("paired", paired_distance(second, theirs, interval=settings.interval)),
                **_three("motion", moved),
                **accuracies(features.take(arm.variant, split, "b"), settings.interval),
            }
        )
    return rows


def accuracies(rows: pd.DataFrame, interval: float) -> dict[str, float | None]:
    """How often the extractor reads off a clip what its caption says, with Wilson's interval for the motion.

    None throughout where the extractor has no heads, or a prompt is no caption of its world.
    """
    names = [f"{head}_accuracy" for head in HEADS]
    nothing: dict[str, float | None] = dict.fromkeys([*names, "motion_accuracy_low", "motion_accuracy_high"])
    if not len(rows["labels"].iloc[0]):
        return nothing
    if (scenes := scenes_of(rows["prompt"])) is None:
        return nothing
    right = np.array(
        [
            [read == getattr(scene, head) for head, read in zip(HEADS, labels, strict=True)]
            for scene, labels in zip(scenes, rows["labels"], strict=True)
        ]
    )
    found: dict[str, float | None] = dict(zip(names, right.mean(axis=0).tolist(), strict=True))
    wilson = binomtest(int(right[:, -1].sum()), len(right)).proportion_ci(interval, method="wilson")
    return found | {"motion_accuracy_low": float(wilson.low), "motion_accuracy_high": float(wilson.high)}


def scenes_of(prompts: Iterable[str]) -> list[Any] | None:
    """What captions of the sprites' world ask for; None where one of them is a prompt of the user's own."""
    from leanmotion.sprites.world import parse_caption

    try:
        return [parse_caption(caption) for caption in prompts]
    except ValueError:
        return None


def with_scores(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, pd.DataFrame], interval: float
) -> list[dict[str, Any]]:
    """The same rows with text alignment and frame consistency, and Student's t intervals of their means over clips.

    Args:
        rows: of one split.
        scores: round -> `clip_scores` of its videos, whose variants are the arms; of `base` the original's.
        interval: coverage.
    """
    found = []
    for row in rows:
        table = scores[row["round"]]
        arm = ORIGINAL if row["arm"] == "original" else row["arm"]
        mine = table[(table["variant"] == arm) & (table["split"] == row["split"]) & (table["seeds"] == "b")]
        new = [_three(name, mean_estimate(np.asarray(mine[name], float), interval)) for name in SCORES]
        found.append({**row, **new[0], **new[1]})
    return found


def metrics_of(rows: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """Flat, stable, rounded keys by round and arm, for `dvc metrics diff`."""
    names = ["excess", "fvd", "kvd", "paired", "motion", "motion_accuracy", "macs", "parameters"]
    names += [name for name in SCORES if rows and name in rows[0]]
    return {
        f"{row['round']}_{row['arm']}_{name}": figure
        for row in rows
        if row["split"] == split
        for name, figure in rounded_row(row, names, evaluation_nulls(row)).items()
    }


@dataclass(frozen=True)
class _Resampled:
    full: np.ndarray
    draws: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _resampled(reference: np.ndarray, variants: Mapping[str, np.ndarray], settings: Evaluation) -> _Resampled:
    halves = complementary_halves(len(reference), settings.resamples, seed=settings.seed)
    full = np.array(list(frechet_distances(reference, variants).values()))
    draws = recentre(full, subset_distances(reference, variants, halves)["fvd"])
    low, high = interval_of(full, draws, settings.interval)
    return _Resampled(full, draws, low, high)


def _original_row(
    original: Arm,
    split: str,
    cross: _Resampled,
    nulls: Mapping[str, float],
    features: FeatureSet,
    settings: Evaluation,
) -> dict[str, Any]:
    twin = features.take(original.variant, split, "b")
    nothing = Estimate(0.0, 0.0, 0.0)
    return {
        **_labels(original, split, len(twin)),
        **nulls,
        **_three("fvd_cross", Estimate(cross.full[-1], cross.low[-1], cross.high[-1])),
        **{
            key: value for name in ("excess", "fvd", "paired", "motion") for key, value in _three(name, nothing).items()
        },
        "kvd": 0.0,
        **accuracies(twin, settings.interval),
    }


def _labels(arm: Arm, split: str, videos: int) -> dict[str, Any]:
    return {
        "round": arm.round, "arm": arm.arm, "split": split, "removed": arm.removed, "parameters": arm.parameters,
        "macs": arm.macs, "videos": videos,
    }  # fmt: skip


def _three(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: float(estimate.value), f"{name}_low": float(estimate.low), f"{name}_high": float(estimate.high)}
