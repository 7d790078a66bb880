"""Predicted damage against what is saved: the sets that none beats, and where the rounds stand."""

import numpy as np
from markupsafe import Markup

from leanmotion.influence.tables import interaction_of
from leanmotion.pipeline.numbers import data, listed, percent, short
from leanmotion.probing.best_sets import candidates, front, members_of
from leanmotion.report.artefacts import Artefacts
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.svg import Axis, Chart, legend, steep

_SHOWN = 12
"""Rows of the table: a front has a hundred sets and more."""


def front_figure(found: Artefacts) -> Figure:
    """By measured time and by MACs, as shares of the whole call."""
    interaction = interaction_of(found.interaction)
    units: list[str] = interaction.units
    sets = candidates(interaction.mean)
    macs = found.whole_blocks.set_index("block").loc[units, "macs"].to_numpy(float) / found.teacher["macs"]
    time = found.profile.loc[units, "saving_fraction"].to_numpy(float)
    charts, rows = [], np.array([], int)
    for cost, title in ((time, "time of a call saved, measured by block"), (macs, "MACs of a call saved")):
        saved = sets.sums(cost)
        best = front(saved, sets.damage)
        best = best[sets.damage[best] > 0]
        rows = best if not len(rows) else rows
        places = [
            (name, float(cost[[units.index(b) for b in gone]].sum()), interaction.damage(gone))
            for name in found.rounds
            if (gone := found.removed[name])
        ]
        charts.append(_chart(title, saved[best].tolist(), sets.damage[best].tolist(), places))
    entries = [("one", "line", "sets that none beats"), ("two", "square", "the rounds, by name where a pointer rests")]
    some = rows[np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(int))] if len(rows) else rows
    cells: list[list[Cell]] = []
    for row in some.tolist():
        places = members_of(int(sets.ids[row]))
        kept = [unit for i, unit in enumerate(units) if i not in places]
        cells.append(
            [
                str(len(places)), data(float(time[places].sum()), percent(float(time[places].sum()))),
                data(float(macs[places].sum()), percent(float(macs[places].sum()))), data(float(sets.damage[row])),
                listed(kept),
            ]
        )  # fmt: skip
    head = ["Blocks deleted", "Time saved", "MACs saved", "Predicted damage", "Kept"]
    return Figure(
        "Predicted damage against what is saved",
        charts,
        legend(entries),
        note="Predicted is the squared change of the final latent, to first order, before any training. How far that "
        "holds for sets that were drawn, docs/results.md tells. `leanmotion solve` answers a budget with a set.",
        table=Table("Sets that none beats in time, a few of them", head, cells),
    )


def _chart(title: str, saved: list[float], damage: list[float], rounds: list[tuple[str, float, float]]) -> Markup:
    values = [*damage, *(value for _, _, value in rounds)]
    log = steep(values)
    chart = Chart(
        f"Predicted damage against {title}",
        Axis.over(title, [*saved, *(x for _, x, _ in rounds)], zero=True, write=lambda value: f"{value:.0%}"),
        Axis.over("predicted damage" + (" (log)" if log else ""), values, zero=True, log=log),
    )
    chart.line(list(zip(saved, damage, strict=True)), "one")
    for name, x, value in rounds:
        chart.mark(x, value, "two", "square", f"{name}: {percent(x)} saved, predicted damage {short(value)}")
    return chart.svg()
