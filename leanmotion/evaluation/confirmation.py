"""The chosen round, measured anew: what it costs, on sets of clips that no choice and no figure before has used.

Of each of K sets of N captions, with the original's clips O under seeds a and b, and the student's S under seeds b:
  null   = mean over sets of FVD(O_b; O_a)     cross = mean over sets of FVD(S_b; O_a)
  excess = cross / null - 1                    fvd   = mean over sets of FVD(S_b; O_b), clip by clip with the same seeds
FVD's bias hangs on N, so that every distance is of N clips, as many as the round was chosen by. Means come before the
ratio: the null of tens of clips is known to a factor of two, and a mean of ratios to it would be larger by its spread.

Intervals come from dealing the clips into K sets anew (`dealt`), each caption spread evenly over them as it is in the
sets that were drawn. Such a set has N clips, and so the same bias: half-samples would have another, which near the null
is half of what they say (docs/method.md). They hold for fresh seeds of these captions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.evaluation import ORIGINAL, accuracies
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.video_tables import require_pairs
from leanmotion.pipeline.settings import Evaluation
from leanmotion.ranking.fvd import frechet_distances
from leanmotion.ranking.resampling import Rows, interval_of, recentre, subset_distances

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

    A set dealt from K sets of clips varies by (K - 1) / K of what fresh sets do, and the mean over K sets by 1 / K of
    that: deviations of single sets are divided by the root of K - 1.

    Args:
        clips: Features of the original under seeds a, under seeds b, and of the student, set after set.
        captions: Of each clip.
        sets: How many sets there are, of one size.
        settings: Resamples, interval, seed.

    Raises:
        LeanmotionError: The original's clips are the same under both sets of seeds.
    """
    first, second, student = clips
    drawn = _distances(clips, np.arange(len(captions)).reshape(sets, -1))
    rows = dealt(captions, sets, settings.resamples, seed=settings.seed)
    cross = subset_distances(first, {"null": second, "cross": student}, rows)["fvd"]
    found = np.hstack([cross, subset_distances(second, {"same": student}, rows)["fvd"]])
    value, centre = drawn.mean(axis=0), found.mean(axis=0)
    draws = recentre(value, centre + (found - centre) / np.sqrt(sets - 1))
    value, draws = np.append(value, value[1] / value[0] - 1), np.column_stack([draws, draws[:, 1] / draws[:, 0] - 1])
    low, high = interval_of(value, draws, settings.interval)
    return drawn, np.stack([low, value, high])


def dealt(captions: Sequence[str] | np.ndarray, sets: int, resamples: int, *, seed: int) -> Rows:
    """Clips dealt into disjoint sets anew, each caption spread evenly over the sets.

    Captions, and the clips of each, are laid out in random order, and every `sets`-th clip goes to the same set.

    Args:
        captions: Of each clip.
        sets: How many sets; they must come out even.
        resamples: How many sets to make in all, rounded up to whole deals.
        seed: Of the generator.

    Returns:
        Indices `[made, clips a set]`, sorted within a set.
    """
    generator = np.random.default_rng(seed)
    _, kind = np.unique(np.asarray(captions), return_inverse=True)
    deals = []
    for _ in range(-(-resamples // sets)):
        laid = np.lexsort((generator.random(len(kind)), generator.permutation(kind.max() + 1)[kind]))
        deals.append(np.sort(laid.reshape(-1, sets).T, axis=1))
    return np.concatenate(deals)


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
