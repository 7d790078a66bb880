"""Predicted damage against what is saved: the sets that none beats, and where the rounds stand."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from leanmotion.influence.tables import Interaction, interaction_of
from leanmotion.pipeline.numbers import data, listed, milli, percent, short
from leanmotion.probing.best_sets import Sets, candidates, front, members_of
from leanmotion.report.artefacts import BASE, Artefacts
from leanmotion.report.block_times import time_shares
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.svg import Axis, Chart, legend, steep

_BUDGETS = 8
"""Rows of the table: a front has a hundred sets and more."""


@dataclass(frozen=True, eq=False)
class Budgets:
    """All sets of blocks that are weighed, and what each block saves of a call, as shares of it."""

    interaction: Interaction
    sets: Sets
    time: np.ndarray
    macs: np.ndarray

    @classmethod
    def of(cls, found: Artefacts) -> "Budgets":
        """Of a run's matrix of interactions, its profile and its counts."""
        interaction = interaction_of(found.interaction)
        units = interaction.units
        macs = found.whole_blocks.set_index("block").loc[units, "macs"].to_numpy(float) / found.teacher["macs"]
        return cls(interaction, candidates(interaction.mean), time_shares(found.profile, units), macs)

    def saved(self, cost: np.ndarray, gone: list[str]) -> float:
        """What a set of blocks saves."""
        return float(cost[[self.interaction.units.index(block) for block in gone]].sum())

    def front(self, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the sets that none beats, least saving first, and what each saves."""
        saved = self.sets.sums(cost)
        rows = front(saved, self.sets.damage)
        rows = rows[self.sets.damage[rows] > 0]
        return rows, saved[rows]


def finding(found: Artefacts, budgets: Budgets) -> Markup:
    """How far the chosen round is from the best set that saves as much time."""
    rows, saved = budgets.front(budgets.time)
    name = found.rounds[-1] if found.chosen == BASE else found.chosen
    gone = found.removed[name]
    share, damage = budgets.saved(budgets.time, gone), budgets.interaction.damage(gone)
    # Sums in another order may differ in their last digit.
    fits = rows[saved >= share - 1e-9]
    if not len(fits):
        return Markup("{} is predicted to save {} of a call, more than any set whose damage is known.").format(
            name, percent(share)
        )
    times = damage / float(budgets.sets.damage[fits].min())
    if times < 1.0005:
        return Markup(
            "{} is on the front: no set predicted to save as much time ({} of a call) has less predicted damage."
        ).format(name, data(share, percent(share)))
    return Markup(
        "{} is predicted to save {} of a call, with {} times the predicted damage of the best set that saves as much."
    ).format(name, data(share, percent(share)), data(times))


def measured(found: Artefacts, budgets: Budgets) -> Markup:
    """The time that this section predicts for a round beside what was measured of it, so that no reader compares both.

    Block times added up are a forecast; whole calls are the measurement, and each pair of them gives another saving.
    """
    name = found.rounds[-1] if found.chosen == BASE else found.chosen
    call, whole = found.latency.loc[name], float(found.latency.loc["full", "seconds"])
    predicted = budgets.saved(budgets.time, found.removed[name])
    low, high = (float(call[f"saving_{end}"]) / whole for end in ("low", "high"))
    where = "inside" if low <= predicted <= high else "below" if predicted < low else "above"
    saved = 1 - float(call["seconds"]) / whole
    return Markup(
        "Times here are predicted, from blocks timed one by one: {} for {}. Measured in whole calls it saves {} ({} ms "
        "instead of {} ms), and half of all pairs of calls save {} to {}: the prediction lies {} that range. Where a "
        "round was measured, believe the measurement."
    ).format(
        data(predicted, percent(predicted)), name, data(saved, percent(saved)),
        data(float(call["seconds"]), milli(call["seconds"])), data(whole, milli(whole)),
        data(low, percent(low)), data(high, percent(high)), where,
    )  # fmt: skip


def front_figure(found: Artefacts, budgets: Budgets) -> Figure:
    """By measured time and by MACs, as shares of the whole call."""
    charts = []
    for cost, title in ((budgets.time, "time of a call saved, predicted"), (budgets.macs, "MACs of a call saved")):
        rows, saved = budgets.front(cost)
        places = [
            (name, budgets.saved(cost, gone), budgets.interaction.damage(gone))
            for name in found.rounds
            if (gone := found.removed[name])
        ]
        charts.append(_chart(title, saved.tolist(), budgets.sets.damage[rows].tolist(), places))
    return Figure(
        "Predicted damage against what is saved",
        charts,
        legend([("one", "line", "the front: sets that none beats"), ("two", "square", "the rounds")]),
        note=Markup(
            "Predicted damage is the squared change of the final latent, to first order, before any training. "
            "docs/results.md tells how far that holds for sets that were drawn. <code>leanmotion solve --latency "
            "70%</code> answers a budget with a set; <code>--pareto front.csv</code> writes the whole front."
        ),
    )


def front_table(budgets: Budgets) -> Table:
    """For budgets of time in even steps, the set of least predicted damage that keeps to each."""
    units, sets = budgets.interaction.units, budgets.sets
    rows, saved = budgets.front(budgets.time)
    steps = np.linspace(0, float(saved.max(initial=0.0)), _BUDGETS + 1)[1:]
    some = [int(np.flatnonzero(saved >= step - 1e-9)[0]) for step in steps] if len(rows) else []
    cells: list[list[Cell]] = []
    for at in dict.fromkeys(some):
        row = int(rows[at])
        places = members_of(int(sets.ids[row]))
        kept = [unit for i, unit in enumerate(units) if i not in places]
        time, macs = float(budgets.time[places].sum()), float(budgets.macs[places].sum())
        few = kept if len(kept) < len(places) else [units[i] for i in places]
        cells.append(
            [
                data(time, percent(time)), data(macs, percent(macs)), data(float(sets.damage[row])), str(len(places)),
                ("all but " if few is kept and kept else "") + (listed(few) if few else "all"),
            ]
        )  # fmt: skip
    head = ["Time of a call saved, predicted", "MACs saved", "Predicted damage", "Blocks deleted", "Which"]
    return Table("Sets of least predicted damage, for more and more time saved", head, cells)


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
        # Below a rising line there is room at the right, but for its end.
        at_end = chart.x.place(x) > 0.8
        chart.label(x, value, name, "end" if at_end else "start")
    return chart.svg()
