"""What rows of similarity say of a unit and of a granularity."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import pandas as pd

from leanmotion.pipeline.settings import GRANULARITIES

AUTHORS_RANGES = {
    "temporal_transformer": (0.60, 0.93),
    "transformer_block": (0.15, 0.53),
    "attention": (0.02, 0.51),
}
"""Lowest and highest cosine that the method's authors saw on AnimateDiff v1.5.2, by granularity."""


def mean_similarity(similarity: pd.DataFrame) -> pd.Series:
    """Cosine in/out of each unit, averaged over timesteps, by unit id in the table's order."""
    return pd.Series(similarity.groupby("unit", sort=False)["cosine"].mean())


def similarity_ranges(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lowest, median and highest cosine over the units of each granularity, beside what the authors saw.

    A unit's cosine is the plain mean over its timesteps, in [-1, 1]. The effect of attention on its residual stream
    has a row of its own, for which the authors gave no range.

    Args:
        rows: of `SimilarityRecorder.rows`. Of a granularity without rows nothing is said.

    Returns:
        Rows with granularity, measure (`in_out` or `residual`), units, min, median, max, authors_min, authors_max.
    """
    table = []
    for granularity in GRANULARITIES:
        for measure, column in (("in_out", "cosine"), ("residual", "residual_cosine")):
            means = _unit_means([row for row in rows if row["granularity"] == granularity], column)
            if not means:
                continue
            low, high = AUTHORS_RANGES[granularity] if measure == "in_out" else (None, None)
            table.append(
                {
                    "granularity": granularity,
                    "measure": measure,
                    "units": len(means),
                    "min": min(means),
                    "median": median(means),
                    "max": max(means),
                    "authors_min": low,
                    "authors_max": high,
                }
            )
    return table


def _unit_means(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    by_unit: dict[str, list[float]] = {}
    for row in rows:
        # From a data frame a missing number comes as NaN.
        if row[column] is not None and not math.isnan(row[column]):
            by_unit.setdefault(row["unit"], []).append(row[column])
    return [fmean(values) for values in by_unit.values()]
