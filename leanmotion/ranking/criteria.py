"""What each criterion's order has in common with the FVD order, beside what it costs to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leanmotion.pipeline.settings import Settings
from leanmotion.ranking.rounding import rounded

if TYPE_CHECKING:
    from leanmotion.ranking.ranking import Ranking

BLOCKS = "temporal_transformer"
HALF = "fvd_half"
"""The FVD order of half of the clips, beside that of the other half."""


def criteria_rows(
    settings: Settings, ranking: Ranking, singles: Sequence[Mapping[str, Any]], spent: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Artefact `criteria`, whole blocks first. Measured time is none of them: the report has it.

    Args:
        settings: all settings.
        ranking: of the blocks.
        singles: of the finer granularities, of `probes.single_units`.
        spent: MACs, of `influence.tables.macs_spent`.

    Returns:
        Rows with criterion, granularity, units, kendall with its interval, macs and share: those of the UNet's calls
        that the criterion needs for all units of the granularity, and their share of what FVD draws with.
    """
    labels = {"granularity": BLOCKS, "units": len(ranking.blocks)}
    rows = [
        {"criterion": row["second"], **labels, **{k: v for k, v in row.items() if k.startswith("kendall")}}
        for row in ranking.correlations
        if row["first"] == "fvd"
    ]
    tau, low, high = ranking.halves
    rows.append({"criterion": HALF, **labels, "kendall": tau, "kendall_low": low, "kendall_high": high})
    return [{**row, **_cost(settings, row, spent)} for row in [*rows, *singles]]


def _cost(settings: Settings, row: Mapping[str, Any], spent: Mapping[str, int]) -> dict[str, float]:
    criterion, granularity = str(row["criterion"]), str(row["granularity"])
    drawn = spent[f"drawn_{granularity}"]
    macs = {
        "macs": 0,
        "influence": spent["macs_walk"] + spent[f"macs_{granularity}"],
        HALF: drawn / 2,
        **dict.fromkeys(("kvd", "paired", "motion"), drawn),
    }.get(criterion)
    if macs is None:  # similarities, all of which one recording gives
        macs = settings.similarity.prompts * spent["steps"] * spent["macs_step"]
    return {"macs": float(macs), "share": macs / drawn}


_PREFIXES = {BLOCKS: "", "transformer_block": "blocks_", "attention": "attentions_"}


def criteria_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Flat keys for git: `tau_influence`, `tau_influence_low`, `cost_influence`, `attentions_tau_influence` and so on.

    Two decimals: a tau jumps by signs (`ranking.rounding`).
    """
    found: dict[str, Any] = {}
    for row in rows:
        # In front: behind it `similarity` of attentions would be `similarity_attention`, a criterion of blocks.
        name, of = row["criterion"], _PREFIXES[row["granularity"]]
        ends = ("", "_low", "_high")
        found |= {f"{of}tau_{name}{end}": round(float(row[f"kendall{end}"]), 2) + 0.0 for end in ends}
        found[f"{of}cost_{name}"] = rounded(row["share"])
    return found
