"""Loss curves by term and round."""

import numpy as np
import pandas as pd
from markupsafe import Markup

from leanmotion.pipeline.numbers import data, listed
from leanmotion.ranking.rounding import rounded_table
from leanmotion.report.artefacts import Artefacts, Frame
from leanmotion.report.elements import Figure, Table
from leanmotion.report.svg import Axis, Chart, legend

_TERMS = {
    "total": "total, weighted",
    "endpoint": "end points",
    "output": "output term",
    "feature": "feature term",
    "task": "task term",
}
_POINTS = 160
_WINDOW = 20
"""Of a running mean, as a part of all steps."""


def finding(found: Artefacts) -> Markup:
    """In which rounds training was kept, and what it did there for clips of the report split."""
    kept = []
    for name in found.rounds:
        rows = found.evaluation[(found.evaluation["split"] == "report") & (found.evaluation["round"] == name)]
        fvd = {row["arm"]: row["fvd"] for row in rows.to_dict("records")}
        if len(found.losses[name]) and fvd.get("pruned") != fvd.get("distilled"):
            kept.append(Markup("{} (FVD {} to {})").format(name, data(fvd["pruned"]), data(fvd["distilled"])))
    trained = sum(len(found.losses[name]) > 0 for name in found.rounds)
    said = Markup("Rounds trained: {} of {}").format(trained, len(found.rounds))
    if not kept:
        return said + Markup("; no training was kept.")
    # `listed` is of plain text; these are built of escaped parts.
    return said + Markup(". Training was kept, by same-seed FVD before and after, in {}.").format(
        Markup(", ").join(kept)
    )


def losses_figure(found: Artefacts) -> Figure | None:
    """One chart a term, one line a round. None where no round was trained."""
    losses = {name: found.losses[name] for name in found.rounds if len(found.losses[name])}
    if not losses:
        return None
    styles = {name: f"hue{i % 8}" for i, name in enumerate(losses)}
    charts = []
    # A total of one term, of weight 1, is that term over again.
    single = any(all(np.allclose(t["total"], t[term]) for t in losses.values()) for term in _TERMS if term != "total")
    for term, words in _TERMS.items():
        if term == "total" and single:
            continue
        values = [float(v) for table in losses.values() for v in table[term].dropna()]
        if not any(value > 0 for value in values):
            continue
        weight = found.settings.distillation.model_dump().get(f"{term}_weight")
        words = f"{words} (only watched)" if weight == 0 else words
        chart = Chart(
            f"Distillation loss by step: {words}",
            Axis.over("step of the round", [0.0, *(float(t["step"].max()) for t in losses.values())], zero=True),
            Axis.over(f"loss, {words}", values, log=min(values) > 0 and max(values) > 4 * min(values)),
        )
        for name, table in losses.items():
            rows = table[["step", term]].dropna()
            every = max(1, len(rows) // _POINTS)
            chart.line(_points(rows.iloc[::every]), f"{styles[name]} pale")
            mean = rows.rolling(max(1, len(rows) // _WINDOW), min_periods=1, center=True).mean()
            chart.line(_points(mean.iloc[::every]), styles[name])
        charts.append(chart.svg())
    bare = [name for name in found.rounds if name not in losses]
    rows = []
    for name, table in losses.items():
        ends = [data(float(table[term].head(5).mean())) for term in _TERMS]
        ends += [data(float(table[term].tail(5).mean())) for term in _TERMS]
        rows.append([name, data(len(table)), *ends])
    head = ["Round", "Steps", *(f"{w}, first 5" for w in _TERMS.values()), *(f"{w}, last 5" for w in _TERMS.values())]
    note = "Pale: each step. Strong: a running mean. Terms are raw, before their weights; the total is weighted."
    if bare:
        note += f" Nothing was trained in {listed(bare)}."
    return Figure(
        "Loss by term and round",
        charts,
        legend([(styles[name], "line", name) for name in losses]),
        note=note,
        table=Table("Loss at the ends of each round, mean of 5 steps", head, rows),
        csv="losses.csv",
    )


def _points(rows: Frame) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in rows.itertuples(index=False)]


def losses_csv(found: Artefacts) -> Frame:
    """All rounds one after the other: `step` goes on from round to round, `round_step` starts anew."""
    terms = [*_TERMS, *(f"{term}_weighted" for term in _TERMS if term != "total"), "learning_rate", "gradient_norm"]
    parts, done = [], 0
    for name in found.rounds:
        table = found.losses[name]
        start = range(done, done + len(table))
        parts.append(pd.DataFrame({"step": list(start), "round": name, "round_step": table["step"], **table[terms]}))
        done += len(table)
    return rounded_table(pd.concat(parts, ignore_index=True), {})
