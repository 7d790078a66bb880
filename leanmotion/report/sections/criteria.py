"""How far cheaper questions give the FVD order, and what each costs to ask."""

import numpy as np

from leanmotion.pipeline.numbers import NOTHING, amount, data, listed, percent, short, within
from leanmotion.ranking.agreement import kendall_tau
from leanmotion.ranking.criteria import BLOCKS, HALF
from leanmotion.ranking.rounding import rounded_table
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.sections.similarity import NAMES
from leanmotion.report.svg import Axis, Chart, legend

WORDS = {
    "similarity": "cosine similarity of whole blocks",
    "similarity_block": "cosine similarity of their transformer blocks",
    "similarity_attention": "cosine similarity of their attention layers",
    "influence": "change of the model's output (influence)",
    "macs": "MACs",
    "paired": "paired distance of the same clips",
    "kvd": "KVD of the same clips",
    "motion": "motion measure of the same clips",
    HALF: "FVD, half of the clips against the other half",
}
_STYLES = {BLOCKS: "one", "transformer_block": "two", "attention": "three"}


def criteria_figure(found: Artefacts) -> Figure:
    """Kendall's tau of every criterion with the FVD order, whole blocks first, best first."""
    rows = _ordered(found.criteria)
    names = [_name(row) for row in rows]
    ends = [row[key] for row in rows for key in ("kendall_low", "kendall_high")]
    title = "Kendall tau with the FVD order"
    chart = Chart(title, Axis(title, min(0.0, *ends), 1.0), rows=names)
    for i, row in enumerate(rows):
        style = _STYLES[row["granularity"]]
        chart.span(row["kendall_low"], row["kendall_high"], i, style)
        chart.mark(row["kendall"], i, style, "circle", f"{names[i]}: {short(row['kendall'])}")
    shown = {row["granularity"] for row in rows}
    entries = [(style, "circle", f"over {NAMES[name]}") for name, style in _STYLES.items() if name in shown]
    cells: list[list[Cell]] = [
        [
            name, NAMES[row["granularity"]], data(row["units"]),
            within(row["kendall"], row["kendall_low"], row["kendall_high"]),
            data(row["macs"], amount(row["macs"])), data(row["share"], percent(row["share"])),
        ]
        for name, row in zip(names, rows, strict=True)
    ]  # fmt: skip
    cells.append(["measured time", NAMES[BLOCKS], data(len(found.blocks)), data(_of_time(found)), NOTHING, NOTHING])
    head = ["Order by", "Units", "How many", "Kendall tau with FVD", "MACs to ask", "Share of what FVD draws with"]
    return Figure(
        "What else gives the FVD order, and what it costs",
        [chart.svg()],
        legend(entries),
        table=Table("Every criterion", head, cells),
        csv="criteria.csv",
    )


def reading(found: Artefacts) -> str:
    """Influence against similarity, in a sentence."""
    rows = {(row["criterion"], row["granularity"]): row for row in _ordered(found.criteria)}
    mine, half = rows[("influence", BLOCKS)], rows[(HALF, BLOCKS)]
    taus = {key: short(row["kendall"]) for key, row in rows.items()}
    said = [
        f"{NAMES[name]} {taus['influence', name]} against {taus['similarity', name]}"
        for name in _STYLES
        if ("influence", name) in rows
    ]
    return (
        f"The change of the model's output when a block goes, asked for {percent(mine['share'])} of the MACs that FVD "
        f"draws with, orders the blocks with a Kendall tau of {short(mine['kendall'])} "
        f"[{short(mine['kendall_low'])}, {short(mine['kendall_high'])}] to FVD; two halves of the clips agree with "
        f"{short(half['kendall'])}. Influence against cosine similarity: {listed(said)}."
    )


def criteria_csv(found: Artefacts) -> Frame:
    """One row a criterion and granularity; taus to two decimals, as they jump by signs."""
    table = found.criteria.copy()
    for name in ("kendall", "kendall_low", "kendall_high"):
        table[name] = table[name].round(2) + 0.0
    return rounded_table(table, {})


def _ordered(table: Frame) -> list[dict]:
    place = {name: i for i, name in enumerate(_STYLES)}
    return sorted(table.to_dict("records"), key=lambda row: (place[row["granularity"]], -row["kendall"]))


def _name(row: dict) -> str:
    if row["granularity"] == BLOCKS:
        return WORDS.get(row["criterion"], str(row["criterion"]))
    return {"similarity": "cosine similarity", "influence": "influence"}[row["criterion"]]


def _of_time(found: Artefacts) -> float:
    """Whether the blocks that take long are the important ones."""
    blocks = found.ranking["block"].tolist()
    saved = found.profile.loc[blocks, "saving"].to_numpy(np.float64)
    return float(kendall_tau(found.ranking["fvd"].to_numpy(np.float64), saved))
