"""Probes: what several large units or few small ones do to videos, and how well scores order single units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leanmotion.features.feature_tables import FeatureSet
from leanmotion.influence.tables import resampled_means
from leanmotion.pipeline.settings import GRANULARITIES, Settings
from leanmotion.probing.probe_sets import Probe, probes_of
from leanmotion.probing.similarity_tables import mean_similarity
from leanmotion.ranking.agreement import correlate
from leanmotion.ranking.fvd import frechet_distance, frechet_distances, kernel_distance, motion_measure, paired_distance
from leanmotion.ranking.resampling import complementary_halves, recentre, subset_distances

_FEWEST = 4
"""Single units of a granularity from which on a correlation is told."""


def all_probes(settings: Settings, similarity: pd.DataFrame) -> list[Probe]:
    """The probes of every set, in the order of the settings."""
    return [
        probe
        for name, chosen in settings.probe.sets.items()
        for probe in probes_of(name, chosen, similarity, seed=settings.probe.seed)
    ]


def probe_rows(
    settings: Settings,
    features: FeatureSet,
    similarity: pd.DataFrame,
    units: pd.DataFrame,
    influence: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Artefact `probes`: distances of every probe, beside how much of the motion modules it removes.

    Of single units also their similarity and influence.
    """
    facts = units.set_index("unit")
    cosine = mean_similarity(similarity).to_dict()
    rows = []
    for probe in all_probes(settings, similarity):
        theirs = features.features(probe.name, "rank", "a")
        reference = features.features("full", "rank", "a")[: len(theirs)]
        still = features.motion("full", "rank", "a")[: len(theirs)]
        paired = paired_distance(reference, theirs, interval=settings.ranking.interval)
        single = probe.units[0] if len(probe.units) == 1 else None
        rows.append(
            {
                "probe": probe.name,
                "granularity": probe.granularity,
                "pick": probe.pick,
                "count": len(probe.units),
                "units": list(probe.units),
                "parameters": int(facts.loc[list(probe.units), "parameters"].sum()),
                "macs": int(facts.loc[list(probe.units), "macs"].sum()),
                "videos": len(theirs),
                "fvd": frechet_distance(reference, theirs),
                "kvd": kernel_distance(reference, theirs, paired=True),
                "paired": paired.value,
                "paired_low": paired.low,
                "paired_high": paired.high,
                "motion": motion_measure(still, features.motion(probe.name, "rank", "a")).value,
                "similarity": None if single is None else float(cosine[single]),
                "influence": None if single is None else influence[single],
            }
        )
    return rows


def single_units(
    settings: Settings, features: FeatureSet, similarity: pd.DataFrame, influence: pd.DataFrame
) -> list[dict[str, Any]]:
    """How similarity and influence order the single units that probes removed, beside their FVD, by granularity.

    Args:
        settings: all settings.
        features: of the original and all probes.
        similarity: artefact `similarity`.
        influence: influence of each unit (rows) on each prompt, of `influence.tables.by_prompt`.

    Returns:
        Rows with criterion, granularity, units, kendall, kendall_low, kendall_high; none of a granularity of which
        fewer than four single units were drawn.
    """
    cosine = mean_similarity(similarity)
    rows = []
    for granularity in GRANULARITIES[1:]:
        singles = {
            probe.units[0]: features.features(probe.name, "rank", "a")
            for probe in all_probes(settings, similarity)
            if probe.granularity == granularity and len(probe.units) == 1
        }
        if len(singles) < _FEWEST:
            continue
        reference = features.features("full", "rank", "a")[: len(next(iter(singles.values())))]
        full, draws = _damage(reference, singles, settings)
        by_prompt = influence.loc[list(singles)].to_numpy()
        full |= {"similarity": -cosine.loc[list(singles)].to_numpy(), "influence": by_prompt.mean(axis=1)}
        draws["influence"] = resampled_means(by_prompt, len(draws["fvd"]), settings.ranking.seed).T
        labels = {"granularity": granularity, "units": len(singles)}
        rows += [
            {"criterion": row["second"], **labels, **{k: v for k, v in row.items() if k.startswith("kendall")}}
            for row in correlate(full, draws, settings.ranking.interval)
            if row["first"] == "fvd"
        ]
    return rows


def _damage(
    reference: Float[np.ndarray, "videos features"], singles: Mapping[str, np.ndarray], settings: Settings
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """FVD of each unit's removal, and its draws over half-samples of the clips."""
    halves = complementary_halves(len(reference), settings.ranking.resamples, seed=settings.ranking.seed)
    full = np.array(list(frechet_distances(reference, singles).values()))
    return {"fvd": full}, {"fvd": recentre(full, subset_distances(reference, singles, halves)["fvd"])}
