"""Cosine similarity between input and output: heat maps by unit and timestep, and ranges beside the authors'."""

from markupsafe import Markup

from leanmotion.pipeline.numbers import NOTHING, data, short
from leanmotion.pipeline.settings import GRANULARITIES
from leanmotion.probing.similarity_tables import similarity_ranges
from leanmotion.ranking.rounding import UNIT, rounded_table
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.svg import WIDTH, Axis, Chart, frame, heat, legend, text

NAMES = {
    "temporal_transformer": "temporal transformers",
    "transformer_block": "transformer blocks",
    "attention": "attention layers",
}
_ROW, _TOP = 13, 8
_NULLS = {"cosine": UNIT, "residual_cosine": UNIT}


def finding(found: Artefacts) -> Markup:
    """Which granularity looks most redundant from the inside, and which least."""
    rows = [row for row in similarity_ranges(found.similarity.to_dict("records")) if row["measure"] == "in_out"]
    rows.sort(key=lambda row: row["median"])
    low, high = rows[0], rows[-1]
    return Markup("By cosine alone {} look most redundant (median {}), {} least ({}).").format(
        NAMES[high["granularity"]], data(high["median"]), NAMES[low["granularity"]], data(low["median"])
    )


def heat_maps(found: Artefacts) -> list[Figure]:
    """One heat map a granularity, with its table."""
    out = []
    for granularity in GRANULARITIES:
        rows = found.similarity[found.similarity["granularity"] == granularity]
        if not rows.empty:
            out.append(_heat_map(rows, NAMES[granularity]))
    return out


def _heat_map(rows: Frame, name: str) -> Figure:
    units = list(dict.fromkeys(rows["unit"]))
    # From noise to picture, as sampling goes.
    steps = sorted({int(t) for t in rows["timestep"]}, reverse=True)
    values = {(u, int(t)): float(c) for u, t, c in zip(rows["unit"], rows["timestep"], rows["cosine"], strict=True)}
    low, high = min(values.values()), max(values.values())
    span = high - low if high - low > 1e-9 else 1.0
    left = 12 + round(6.2 * max(len(unit) for unit in units))
    wide = (WIDTH - left - 8) / len(steps)
    parts = [text(left - 6, _TOP + i * _ROW + 10, unit, "end", "small") for i, unit in enumerate(units)]
    for i, unit in enumerate(units):
        for j, step in enumerate(steps):
            value = values.get((unit, step))
            if value is not None:
                body = Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" fill="{}"><title>{}</title></rect>')
                tip = f"{unit}, timestep {step}: {short(value)}"
                fill = heat((value - low) / span)[0]
                parts.append(body.format(left + j * wide, _TOP + i * _ROW, wide - 0.6, _ROW - 1, fill, tip))
    bottom = _TOP + len(units) * _ROW
    every = max(1, -(-len(steps) // 6))
    parts += [
        text(left + (j + 0.5) * wide, bottom + 13, str(step), "middle", "small")
        for j, step in enumerate(steps)
        if j % every == 0
    ]
    parts.append(text(left + len(steps) * wide / 2, bottom + 32, "timestep, from noise to picture", "middle", "title"))
    title = f"Cosine of input and output, {name}"
    shades = Markup("").join(Markup('<i style="background:{}"></i>').format(heat(i / 6)[0]) for i in range(7))
    table_rows: list[list[Cell]] = [
        [unit, *(data(values[unit, step]) if (unit, step) in values else NOTHING for step in steps)] for unit in units
    ]
    return Figure(
        title,
        [frame(title, WIDTH, bottom + 40, parts)],
        Markup('<p class="legend"><span>{} <b class="scale">{}</b> {} (dark: changes little)</span></p>').format(
            short(low), shades, short(high)
        ),
        table=Table(title, ["Unit", *(f"t = {step}" for step in steps)], table_rows),
        csv="similarity.csv",
    )


def ranges_figure(found: Artefacts) -> Figure:
    """What is measured here beside what the method's authors saw on the real model."""
    rows = similarity_ranges(found.similarity.to_dict("records"))
    names = [NAMES[row["granularity"]] + (", residual" if row["measure"] == "residual" else "") for row in rows]
    ends = [row[key] for row in rows for key in ("min", "max", "authors_min", "authors_max")]
    title = "Ranges of cosine similarity over units"
    chart = Chart(title, Axis.over("cosine, mean over timesteps", ends), rows=names, row_height=26)
    for i, row in enumerate(rows):
        if row["authors_min"] is not None:
            chart.span(row["authors_min"], row["authors_max"], i + 0.18, "two")
        chart.span(row["min"], row["max"], i - 0.18, "one")
        chart.mark(row["median"], i - 0.18, "one", "circle", f"median {short(row['median'])}")
    table = Table(
        title,
        ["Granularity", "Units", "Lowest", "Median", "Highest", "Authors' lowest", "Authors' highest"],
        [
            [name, data(row["units"]), *(data(row[k]) for k in ("min", "median", "max", "authors_min", "authors_max"))]
            for name, row in zip(names, rows, strict=True)
        ],
    )
    shown = legend(
        [
            ("one", "circle", "here: lowest to highest, median marked"),
            ("two", "span", "the method's authors, on the real model"),
        ]
    )
    return Figure(title, [chart.svg()], shown, table=table, csv="similarity.csv")


def similarity_csv(found: Artefacts) -> Frame:
    """One row a unit and timestep."""
    columns = ["unit", "block", "granularity", "timestep", "cosine", "residual_cosine"]
    return rounded_table(found.similarity[columns], _NULLS)


def similarity_units_csv(found: Artefacts) -> Frame:
    """One row a unit: mean over timesteps."""
    keys = ["unit", "block", "granularity"]
    table = found.similarity.groupby(keys, sort=False)[["cosine", "residual_cosine"]].mean().reset_index()
    return rounded_table(table, _NULLS)
