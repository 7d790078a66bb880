"""From features, similarity and units to the ranking's tables: blocks, pairs, correlations and the probes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.video_tables import require_pairs
from leanmotion.influence.tables import by_prompt
from leanmotion.pipeline.settings import Settings
from leanmotion.probing.similarity_tables import mean_similarity, similarity_ranges
from leanmotion.ranking.criteria import criteria_metrics, criteria_rows
from leanmotion.ranking.fvd import motion_measure, paired_distance
from leanmotion.ranking.probes import probe_rows, single_units
from leanmotion.ranking.ranking import Ranking, rank_blocks
from leanmotion.ranking.resampling import complementary_halves, kernel_null
from leanmotion.ranking.rounding import UNIT, rounded, rounded_row

_SHORT = {"temporal_transformer": "transformer", "transformer_block": "block", "attention": "attention"}


@dataclass(frozen=True)
class Importance:
    """What the rank stage writes. `meta` labels every number: extractor, its weights, videos, frames, ddof.

    `nulls`: of fvd, kvd, paired and motion, between the original's clips of the same prompts under other seeds.
    """

    ranking: Ranking
    meta: dict[str, str]
    nulls: dict[str, float]
    blocks: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    ranks: list[dict[str, Any]]
    criteria: list[dict[str, Any]]
    probes: list[dict[str, Any]]


def rank_importance(
    settings: Settings,
    features: FeatureSet,
    similarity: pd.DataFrame,
    units: pd.DataFrame,
    latency: Mapping[str, float],
    influence: pd.DataFrame,
    spent: Mapping[str, int],
) -> Importance:
    """Rank the blocks by the settings' criterion.

    Args:
        settings: All settings.
        features: Of the original (rank split, seeds a and b), of every ablation and probe.
        similarity: Artefact `similarity`.
        units: Artefact `units`.
        latency: Seconds that each block's removal saves; used by the criterion `fvd_per_latency` only.
        influence: Artefact `influence`.
        spent: MACs that influence and FVD took, of `influence.tables.macs_spent`.

    Raises:
        LeanmotionError: Features that were not drawn from the same prompts and seeds.
    """
    blocks = settings.teacher.blocks
    reference = features.take("full", "rank", "a")
    for name in [n for n in features.variants if n != "full"]:
        # Probes may be of the first prompts alone.
        count = None if name in blocks else settings.probe.prompts
        require_pairs(reference.head(count or len(reference)), features.take(name, "rank", "a"), name=name)
    require_pairs(reference, features.take("full", "rank", "b"), name="the null", same_seeds=False)
    columns = _columns(similarity, units)
    if settings.ranking.criterion == "fvd_per_latency":
        # Only then: a measured time in the ranking makes it irreproducible bit by bit.
        floor = max(latency.values()) / 100
        columns["latency"] = {block: max(latency[block], floor) for block in blocks}
    on_prompts = by_prompt(influence)
    ranking = rank_blocks(
        features.features("full", "rank", "a"),
        {block: features.features(block, "rank", "a") for block in blocks},
        criterion=settings.ranking.criterion,
        columns=columns,
        sampled={"influence": on_prompts.loc[blocks].to_numpy()},
        motion=(
            features.motion("full", "rank", "a"),
            {block: features.motion(block, "rank", "a") for block in blocks},
        ),
        null=features.features("full", "rank", "b"),
        resamples=settings.ranking.resamples,
        interval=settings.ranking.interval,
        seed=settings.ranking.seed,
    )
    facts = units[units["granularity"] == "temporal_transformer"].set_index("block")
    depths, sizes = facts["depth"].to_dict(), facts["parameters"].to_dict()
    rows = [{"depth": depths[row["block"]], "parameters": sizes[row["block"]], **row} for row in ranking.rows]
    first, second = (features.features("full", "rank", seeds) for seeds in "ab")
    still, moved = (features.motion("full", "rank", seeds) for seeds in "ab")
    halves = complementary_halves(len(first), settings.ranking.resamples, seed=settings.ranking.seed)
    nulls = {
        "fvd": ranking.null["fvd"],
        "kvd": kernel_null(first, second, halves),
        "paired": paired_distance(first, second).value,
        "motion": motion_measure(still, moved).value,
    }
    meta = {
        **features.meta,
        "videos": str(ranking.videos),
        "frames": str(settings.sampling.frames),
        "ddof": "1",
        "criterion": ranking.criterion,
        "interval": str(settings.ranking.interval),
        # What the report says beside the table: here it is verified with it.
        **{f"null_{name}": repr(round(null, 9)) for name, null in nulls.items()},
        **{name: repr(round(ranking.settling[name], 9)) for name in ("split_half_tau", "videos_to_settle")},
    }
    probes = probe_rows(settings, features, similarity, units, on_prompts.mean(axis=1).to_dict())
    singles = single_units(settings, features, similarity, on_prompts)
    criteria = criteria_rows(settings, ranking, singles, spent)
    return Importance(ranking, meta, nulls, rows, _pairs(ranking), _ranks(ranking), criteria, probes)


def metrics_of(found: Importance, similarity: pd.DataFrame) -> dict[str, Any]:
    """Flat, stable, rounded keys by block, for `dvc metrics diff`."""
    ranking = found.ranking
    nulls = {**found.nulls, "similarity": UNIT}
    metrics: dict[str, Any] = {
        "extractor": found.meta["extractor"],
        "videos": ranking.videos,
        "criterion": ranking.criterion,
        **{f"null_{name}": rounded(null, null) for name, null in found.nulls.items()},
        "tied_neighbours": ranking.settling["tied_neighbours"],
        "split_half_tau": round(ranking.settling["split_half_tau"], 2),
        "videos_to_settle": ranking.settling["videos_to_settle"],
        **criteria_metrics(found.criteria),
    }
    for row in sorted(found.blocks, key=lambda row: ranking.blocks.index(str(row["block"]))):
        names = ("fvd", "kvd", "paired", "motion", "position", "similarity", "influence")
        figures = rounded_row(row, names, nulls)
        metrics |= {f"{name}_{row['block']}": figure for name, figure in figures.items()}
    for row in similarity_ranges(similarity.to_dict("records")):  # pyright: ignore[reportArgumentType]
        name = _SHORT[row["granularity"]] + ("_residual" if row["measure"] == "residual" else "")
        metrics |= {f"similarity_{name}_{end}": rounded(row[end], UNIT) for end in ("min", "max")}
    for row in found.probes:
        # One unit's own name says what it is of; the probe's has the set's before it, and makes tables wide.
        name = row["units"][0].replace("-", "_") if row["pick"] == "single" else row["probe"]
        metrics[f"probe_fvd_{name}"] = rounded(row["fvd"], nulls["fvd"])
    return metrics


def _columns(similarity: pd.DataFrame, units: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Per block: its similarity at the three granularities (attention: mean of its layers), and its MACs."""
    mean = mean_similarity(similarity)
    table = units.set_index("unit").assign(cosine=mean)
    by: Any = table.groupby(["granularity", "block"], sort=False)["cosine"].mean()
    whole = table[table["granularity"] == "temporal_transformer"].set_index("block")
    return {
        "similarity": by["temporal_transformer"].to_dict(),
        "similarity_block": by["transformer_block"].to_dict(),
        "similarity_attention": by["attention"].to_dict(),
        "macs": whole["macs"].astype(float).to_dict(),
    }


def _pairs(ranking: Ranking) -> list[dict[str, Any]]:
    return [
        {"block": one, "other": other, "probability": float(ranking.before_probability[i, j])}
        for i, one in enumerate(ranking.blocks)
        for j, other in enumerate(ranking.blocks)
        if i != j
    ]


def _ranks(ranking: Ranking) -> list[dict[str, Any]]:
    return [
        {"block": block, "rank": rank, "probability": float(ranking.rank_probability[i, rank])}
        for i, block in enumerate(ranking.blocks)
        for rank in range(len(ranking.blocks))
    ]
