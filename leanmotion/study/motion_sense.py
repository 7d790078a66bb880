"""How much the extractor feels motion at all: the original's clips, their frames in another order, or all the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from leanmotion.evaluation.evaluation import ORIGINAL
from leanmotion.features.extractors import Extractor
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.frame_batches import Clips as Frames
from leanmotion.features.motion import motion_descriptor
from leanmotion.features.video_tables import Clips
from leanmotion.pipeline.settings import Evaluation
from leanmotion.ranking.fvd import frechet_distance, kernel_distance, motion_measure, paired_distance
from leanmotion.ranking.resampling import complementary_halves, interval_of, recentre, subset_distances

QUESTION = "motion"


def without_motion(frames: Frames) -> Mapping[str, Frames]:
    """The same frames in a seeded order of each clip's own, and the first one all along."""
    random = np.random.default_rng(0)
    orders = np.stack([random.permutation(frames.shape[1]) for _ in frames])
    return {
        "frames_shuffled": np.take_along_axis(frames, orders[:, :, None, None, None], axis=1),
        "first_frame_repeated": np.repeat(frames[:, :1], frames.shape[1], axis=1),
    }


def motion_rows(
    features: FeatureSet, clips: Clips, extractor: Extractor, split: str, settings: Evaluation
) -> list[dict[str, Any]]:
    """Rows of the `study` table, arm `original`: distances to the clips as they are, clip by clip.

    Args:
        features: of the original on this split, seeds a and b.
        clips: the original's of seeds b.
        extractor: of the distances.
        split: the split.
        settings: resamples, interval, seed.
    """
    first, whole = (features.features(ORIGINAL, split, seeds) for seeds in "ab")
    still, rows = features.motion(ORIGINAL, split, "b"), []
    halves = complementary_halves(len(whole), settings.resamples, seed=settings.seed)
    for name, frames in without_motion(clips.frames).items():
        theirs = extractor.features(frames).astype(np.float64)
        full = np.array([frechet_distance(whole, theirs)])
        draws = recentre(full, subset_distances(whole, {name: theirs}, halves)["fvd"])
        low, high = interval_of(full, draws, settings.interval)
        paired = paired_distance(whole, theirs, interval=settings.interval)
        moved = motion_measure(still, motion_descriptor(frames).astype(np.float64), interval=settings.interval)
        rows.append(
            {
                "address": "", "question": QUESTION, "order": name, "granularity": "", "path": "", "seed": 0,
                "steps": 0, "arm": "original", "removed": 0, "units": [], "parameters_removed": 0, "macs_removed": 0,
                "videos": len(whole), "null": frechet_distance(whole, first), "fvd": float(full[0]),
                "fvd_low": float(low[0]), "fvd_high": float(high[0]),
                "kvd": kernel_distance(whole, theirs, paired=True), "paired": paired.value,
                "paired_low": paired.low, "paired_high": paired.high, "motion": moved.value,
                "motion_low": moved.low, "motion_high": moved.high,
            }
        )  # fmt: skip
    return rows
