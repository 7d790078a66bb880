"""How far cheaper questions give the FVD order, and what each costs to ask."""

import numpy as np
from markupsafe import Markup

from leanmotion.pipeline.numbers import NOTHING, amount, data, listed, percent, short, within
from leanmotion.ranking.agreement import kendall_tau
from leanmotion.ranking.criteria import BLOCKS, HALF
from leanmotion.ranking.rounding import rounded_table
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.sections.similarity import NAMES
from leanmotion.report.svg import Axis, Chart, legend, steep

WORDS = {
    "similarity": "cosine similarity",
    "similarity_block": "cosine of what is inside",
    "similarity_attention": "cosine of its attention",
    "influence": "influence",
    "macs": "MACs",
    "paired": "paired distance",
    "kvd": "KVD",
    "motion": "motion measure",
    HALF: "FVD, half of the clips",
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
        "What else gives the FVD order",
        [chart.svg()],
        legend(entries),
        table=Table("Every criterion", head, cells),
        csv="criteria.csv",
    )


def finding(found: Artefacts) -> Markup:
    """Influence against similarity in one sentence."""
    rows = _by_name(found)
    influence, similarity = (rows[name, BLOCKS] for name in ("influence", "similarity"))
    mine, other = float(influence["kendall"]), float(similarity["kendall"])
    how = "about as well as"
    if influence["kendall_low"] > similarity["kendall_high"]:
        how = "better than"
    elif influence["kendall_high"] < similarity["kendall_low"]:
        how = "worse than"
    return Markup(
        "Influence, which draws no clip, foretells the FVD order {} cosine similarity does: Kendall tau {} against {}."
    ).format(how, data(mine), data(other))


def reading(found: Artefacts) -> str:
    """What it costs to ask, and how it is at the other granularities."""
    rows = _by_name(found)
    mine, half = rows["influence", BLOCKS], rows[HALF, BLOCKS]
    taus = {key: short(row["kendall"]) for key, row in rows.items()}
    said = [
        f"{NAMES[name]} {taus['influence', name]} against {taus['similarity', name]}"
        for name in _STYLES
        if ("influence", name) in rows
    ]
    return (
        f"Influence is the change of the model's output when a block goes. Asking for it takes "
        f"{percent(mine['share'])} of the MACs that FVD draws with; its tau lies in [{short(mine['kendall_low'])}, "
        f"{short(mine['kendall_high'])}]. FVD itself, on two halves of the clips, agrees with a tau of "
        f"{short(half['kendall'])}. Influence against similarity by granularity: {listed(said)}."
    )


def beside_figure(found: Artefacts) -> Figure:
    """Each block's FVD against its influence, and against how far its cosine similarity is from 1."""
    rows = found.ranking
    panels = [
        ("influence", rows["influence"].astype(float), "influence"),
        ("similarity", 1 - rows["similarity"].astype(float), "1 minus cosine"),
    ]
    taus = {name: short(_by_name(found)[name, BLOCKS]["kendall"]) for name, _, _ in panels}
    charts = [_scatter(found, values, words, f"{words}: Kendall tau {taus[name]}") for name, values, words in panels]
    return Figure(
        "Two cheap questions against the answer: influence, and similarity",
        charts,
        legend([("dim", "square", f"deleted in {found.chosen}"), ("one", "circle", "kept")]),
        note="A question that foretells the order has its blocks on a rising line.",
    )


def _scatter(found: Artefacts, values: Frame, words: str, title: str) -> Markup:
    fvd, gone = found.ranking["fvd"], set(found.removed[found.chosen])
    wide, high = steep(values), steep(fvd)
    chart = Chart(
        f"FVD against {words}",
        Axis.over(title + (" (log)" if wide else ""), values, log=wide),
        Axis.over("FVD without the block" + (" (log)" if high else ""), fvd, zero=True, log=high),
    )
    for block, x, y in zip(found.ranking["block"], values, fvd, strict=True):
        style, shape = ("dim", "square") if block in gone else ("one", "circle")
        chart.mark(x, y, style, shape, f"{block}: {words} {short(x)}, FVD {short(y)}")
    return chart.svg()


def _by_name(found: Artefacts) -> dict[tuple[str, str], dict]:
    return {(row["criterion"], row["granularity"]): row for row in _ordered(found.criteria)}


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
        return str(WORDS.get(row["criterion"], row["criterion"]))
    return f"{NAMES[row['granularity']]}: {'cosine' if row['criterion'] == 'similarity' else row['criterion']}"


def _of_time(found: Artefacts) -> float:
    """Whether the blocks that take long are the important ones."""
    blocks = found.ranking["block"].tolist()
    saved = found.profile.loc[blocks, "saving"].to_numpy(np.float64)
    return float(kendall_tau(found.ranking["fvd"].to_numpy(np.float64), saved))
