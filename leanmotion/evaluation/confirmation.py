"""The chosen round, measured anew: what it costs, on sets of clips that no choice and no figure before has used.

Of each of K sets of N clips there are the original's O under seeds a and b, and the student's S under seeds b:
  null = FVD(O_b; O_a)    cross = FVD(S_b; O_a)    fvd = FVD(S_b; O_b), clip by clip with the same seeds
FVD's bias hangs on N, so that every distance is of N clips, as many as the round was chosen by.

The sets as drawn are one way to make sets of these clips. What is said of all together is the mean over many ways: the
clips are dealt into K sets again and again, each caption spread evenly over them as it is in the sets that were drawn.
Such a mean has the same expectation as that over the K sets as drawn, and varies less, by a third near the null.
  excess = mean cross / mean null - 1
Means come before the ratio: the null of tens of clips is known to a factor of two, and a mean of ratios to it would be
larger by its spread.

Intervals are of the infinitesimal jackknife for means over subsamples (Wager, Hastie and Efron 2014, "Confidence
Intervals for Random Forests", section 2, with its correction for finitely many subsamples): what it changes that a clip
is in a set, squared, over all clips. Half-samples, as `evaluate` has them, are of half as many clips, and near the null
vary twice as much (docs/method.md). The intervals hold for fresh seeds of these captions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtri

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.evaluation import ORIGINAL, accuracies
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.video_tables import require_pairs
from leanmotion.pipeline.settings import Evaluation
from leanmotion.ranking.fvd import frechet_distances
from leanmotion.ranking.resampling import Rows, subset_distances

ALL = "all"
"""Names the row of all sets together."""
STUDENT = "distilled"

Clips = Float[np.ndarray, "clips features"]


def confirm(features: FeatureSet, splits: Sequence[str], settings: Evaluation) -> list[dict[str, Any]]:
    """A row of all sets together, with intervals, and one of each set (artefact `confirm`, but for the round).

    Args:
        features: Of the original (seeds a and b) and of the student (seeds b), in every set.
        splits: The sets, at least two, of the same number of clips.
        settings: Resamples, interval, seed.

    Raises:
        LeanmotionError: Sets of different size, clips of other prompts or seeds than the original's, or no null.
    """
    takes = {split: [features.take(*what) for what in _takes(split)] for split in splits}
    sizes = {len(rows) for parts in takes.values() for rows in parts}
    if len(splits) < 2 or len(sizes) != 1:
        raise LeanmotionError(f"sets of {sorted(sizes)} clips, {len(splits)} of them: two of one size are needed")
    for split, (first, second, student) in takes.items():
        require_pairs(second, student, name=f"the student's clips, {split}")
        require_pairs(first, second, name=f"the null, {split}", same_seeds=False)
    clips = [np.concatenate([features.features(*_takes(split)[i]) for split in splits]) for i in range(3)]
    captions = np.concatenate([parts[0]["prompt"] for parts in takes.values()])
    drawn, ends = estimate(clips, captions, len(splits), settings)
    of_all = {"set": ALL, "videos": len(captions), "captions": len(set(captions))}
    rows: list[dict[str, Any]] = [{**of_all, **_spread(ends)}]
    rows += [
        {"set": split, "videos": len(student), "captions": student["prompt"].nunique(), **_alone(drawn[i])}
        for i, (split, (_, _, student)) in enumerate(takes.items())
    ]
    for row, wanted in zip(rows, [list(splits), *([split] for split in splits)], strict=True):
        for name, place in (("original_", 1), ("", 2)):
            read = accuracies(pd.concat([takes[split][place] for split in wanted]), settings.interval)
            row |= {f"{name}{key}": read[key] for key in read if key.startswith("motion")}
    return rows


def estimate(
    clips: Sequence[Clips], captions: Sequence[str] | np.ndarray, sets: int, settings: Evaluation
) -> tuple[Float[np.ndarray, "sets 3"], Float[np.ndarray, "ends 4"]]:
    """Null, cross and same-seed FVD of each set; and of all, with the excess: lower ends, values and upper ends.

    Intervals are normal for the logarithm, so that distances stay positive and have the longer upper tail.

    Args:
        clips: Features of the original under seeds a, under seeds b, and of the student, set after set.
        captions: Of each clip.
        sets: How many sets there are, of one size.
        settings: Resamples (how often the clips are dealt), interval, seed.

    Raises:
        LeanmotionError: The original's clips are the same under both sets of seeds.
    """
    first, second, student = clips
    drawn = _distances(clips, np.arange(len(captions)).reshape(sets, -1))
    rows = dealt(captions, sets, settings.resamples, seed=settings.seed)
    cross = subset_distances(first, {"null": second, "cross": student}, rows)["fvd"]
    found = np.hstack([cross, subset_distances(second, {"same": student}, rows)["fvd"]])
    value = found.mean(axis=0)
    # A distance that is zero but for rounding has no logarithm, and no doubt.
    shares = found / np.where(value > 1e-9 * value.max(), value, np.inf)
    logs = np.column_stack([shares, shares[:, 1] - shares[:, 0]])
    factor = np.exp(ndtri(0.5 + settings.interval / 2) * _deviations(logs, rows, sets))
    value = np.append(value, value[1] / value[0])
    ends = np.stack([value / factor, value, value * factor])
    ends[:, 3] -= 1
    return drawn, ends


def _deviations(values: Float[np.ndarray, "made measures"], rows: Rows, sets: int) -> Float[np.ndarray, " measures"]:
    """Standard deviations of means over dealt sets.

    A clip's influence is the covariance, over sets, of its being in one with the set's value; for a mean of clips the
    sum of their squares is (1 - 1/K)^2 of the variance. Of B sets it is too large by what chance adds to covariances.
    """
    member = np.zeros((len(rows), rows.size * sets // len(rows)))
    np.put_along_axis(member, rows, 1.0, axis=1)
    influence = (member - member.mean(axis=0)).T @ (values - values.mean(axis=0)) / len(rows)
    squares = np.square(influence).sum(axis=0)
    chance = member.shape[1] * values.var(axis=0) * (1 / sets) * (1 - 1 / sets) / len(rows)
    return np.sqrt(np.maximum(squares - chance, squares / 10)) * sets / (sets - 1)


def dealt(captions: Sequence[str] | np.ndarray, sets: int, deals: int, *, seed: int) -> Rows:
    """Clips dealt into disjoint sets anew, each caption spread evenly over the sets.

    Captions, and the clips of each, are laid out in random order, and every `sets`-th clip goes to the same set.

    Args:
        captions: Of each clip.
        sets: How many sets; they must come out even.
        deals: How often.
        seed: Of the generator.

    Returns:
        Indices `[deals * sets, clips a set]`, sorted within a set.
    """
    generator = np.random.default_rng(seed)
    _, kind = np.unique(np.asarray(captions), return_inverse=True)
    made = []
    for _ in range(deals):
        laid = np.lexsort((generator.random(len(kind)), generator.permutation(kind.max() + 1)[kind]))
        made.append(np.sort(laid.reshape(-1, sets).T, axis=1))
    return np.concatenate(made)


def _takes(split: str) -> list[tuple[str, str, str]]:
    return [(ORIGINAL, split, "a"), (ORIGINAL, split, "b"), (STUDENT, split, "b")]


def _distances(clips: Sequence[Clips], rows: Rows) -> Float[np.ndarray, "sets 3"]:
    """Null, cross and same-seed FVD of each set."""
    first, second, student = clips
    found = []
    for row in rows:
        if np.array_equal(first[row], second[row]):
            # The excess is a ratio to their distance.
            raise LeanmotionError("the original's clips under other seeds are the same clips: see prompts.seed")
        null, cross = frechet_distances(first[row], {"null": second[row], "cross": student[row]}).values()
        found.append([null, cross, *frechet_distances(second[row], {"same": student[row]}).values()])
    return np.array(found)


def _spread(ends: Float[np.ndarray, "ends 4"]) -> dict[str, float]:
    low, value, high = ends
    found = {"null": float(value[0])}
    for name, i in (("fvd_cross", 1), ("fvd", 2), ("excess", 3)):
        found |= {name: float(value[i]), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    return found


def _alone(row: np.ndarray) -> dict[str, float]:
    null, cross, same = map(float, row)
    return {"null": null, "fvd_cross": cross, "fvd": same, "excess": cross / null - 1}
