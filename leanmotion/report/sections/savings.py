"""What deletion is predicted to save against what it saves: block by block, and round by round."""

from markupsafe import Markup

from leanmotion.pipeline.numbers import data, milli, percent, short, within
from leanmotion.report.artefacts import BASE, Artefacts, Frame
from leanmotion.report.elements import Cell, Figure, Table
from leanmotion.report.svg import Axis, Chart, legend


def finding(found: Artefacts) -> Markup:
    """The chosen round's saving, or that of all blocks where none was chosen: foretold by blocks, and measured."""
    name = "none" if found.chosen == BASE else found.chosen
    call = found.latency.loc[name]
    measured, predicted = float(call["saving"]), float(call["predicted"])
    words = "Removing every block" if found.chosen == BASE else found.chosen
    ratio = f", {percent(predicted / measured)} of it" if measured > 0 else ""
    return Markup("{} saves {} ms of a UNet call; the times of its single blocks add up to {} ms{}.").format(
        words, data(measured, milli(measured)), data(predicted, milli(predicted)), ratio
    )


def reading(found: Artefacts) -> str:
    """How far the blocks' own times, added up, are from what whole calls without any of them save."""
    added, whole = (float(found.profile.loc[names, "saving"].sum()) for names in (found.blocks, ["none"]))
    watched = found.profile.loc["watched"]
    apart = f", {percent(abs(added / whole - 1))} apart" if whole > 0 else ""
    cost, low, high = (milli(-watched[name]) for name in ("saving", "saving_high", "saving_low"))
    return (
        f"Each block is timed where it runs, in {int(watched['rounds'])} calls of the whole UNet: together they take "
        f"{milli(added)} ms, and a call without any of them is {milli(whole)} ms shorter{apart}. The clocks cost a "
        f"call {cost} ms [{low}, {high}]. {two_timings(found)}"
    ).rstrip()


def two_timings(found: Artefacts) -> str:
    """That ms of blocks and ms of rounds are of calls that took unlike long; empty where they did not."""
    blocks, rounds = (float(table.loc["full", "seconds"]) for table in (found.profile, found.latency))
    if abs(blocks / rounds - 1) < 0.02:
        return ""
    return (
        f"A whole call took {milli(blocks)} ms while blocks were timed, and {milli(rounds)} ms while rounds were: "
        "between the two, compare shares of a call, not ms."
    )


def savings_figure(found: Artefacts) -> Figure:
    """By block: its share of the MACs against its measured time. By round: its blocks' times against whole calls."""
    blocks = _blocks(found)
    rounds = found.latency.loc[[*found.rounds, "none"]]
    cells: list[list[Cell]] = [
        [
            block,
            data(row["counted"], percent(row["counted"])),
            within(row["saving"], row["saving_low"], row["saving_high"], percent),
            percent(_ratio(row)),
        ]
        for block, row in blocks.iterrows()
    ]
    cells += [
        [
            _named(name),
            data(float(row["predicted"]), f"{milli(row['predicted'])} ms"),
            within(float(row["saving"]), float(row["saving_low"]), float(row["saving_high"]), milli) + " ms",
            percent(row["saving"] / row["predicted"]) if row["predicted"] > 0 else "",
        ]
        for name, row in rounds.iterrows()
    ]
    return Figure(
        "Predicted and measured savings of a UNet call",
        [_by_block(blocks), _by_round(found, rounds)],
        legend(
            [
                ("three", "square", "predicted: by its MACs (blocks), by its blocks' times (rounds)"),
                ("two", "circle", "measured, with quartiles"),
            ]
        ),
        note="A count of MACs takes every operation for equally fast. Blocks on large maps have few parameters and few "
        "MACs, but much data to move.",
        table=Table(
            "Blocks by their MACs and measured in the call; rounds by their blocks and measured in whole calls",
            ["What is deleted", "Predicted", "Measured", "Measured of predicted"],
            cells,
        ),
    )


def _blocks(found: Artefacts) -> Frame:
    """Blocks in the ranking's order: shares of a call by their MACs (`counted`), and as measured."""
    names = found.ranking["block"].tolist()
    rows = found.profile.loc[names, ["saving", "saving_low", "saving_high"]] / float(
        found.profile.loc["full", "seconds"]
    )
    return rows.assign(counted=found.whole_blocks.set_index("block").loc[names, "macs"] / found.teacher["macs"])


def _ratio(row: Frame) -> float | None:
    return row["saving"] / row["counted"] if row["counted"] > 0 else None


def _named(name: str) -> str:
    return "all: the ceiling" if name == "none" else name


def _by_block(blocks: Frame) -> Markup:
    ends = [0, *blocks["counted"], *blocks["saving_high"]]
    axis = Axis.over("share of the UNet call's time", ends, zero=True, write=lambda value: f"{value:.0%}")
    chart = Chart("Time of each block, by its MACs and measured", axis, rows=blocks.index.tolist(), striped=True)
    for i, row in enumerate(blocks.to_dict("records")):
        tip = f"{chart.rows[i]}: by MACs {percent(row['counted'])}, measured {percent(row['saving'])}"
        chart.span(row["saving_low"], row["saving_high"], i, "two")
        chart.mark(row["counted"], i, "three", "square", tip)
        chart.mark(row["saving"], i, "two", "circle", tip)
    return chart.svg()


def _by_round(found: Artefacts, rounds: Frame) -> Markup:
    rows = rounds[["predicted", "saving", "saving_low", "saving_high"]] * 1e3
    names = [
        f"{name}, {len(found.removed[name])} deleted" if name in found.removed else _named(name)
        for name in rounds.index
    ]
    axis = Axis.over("ms saved of a UNet call", [0, *rows["predicted"], *rows["saving_high"]], zero=True)
    chart = Chart("Time that each round saves, by its blocks and measured", axis, rows=names, row_height=26)
    for i, row in enumerate(rows.to_dict("records")):
        tip = f"{names[i]}: predicted {short(row['predicted'])} ms, measured {short(row['saving'])} ms"
        chart.span(row["saving_low"], row["saving_high"], i, "two")
        chart.mark(row["predicted"], i, "three", "square", tip)
        chart.mark(row["saving"], i, "two", "circle", tip)
    return chart.svg()
