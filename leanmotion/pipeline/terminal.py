"""What a stage found, as a small table at its end. For eyes: nothing reads it, and no result depends on it."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leanmotion.pipeline.numbers import amount, milli, percent, short

_WIDE = 140
"""Columns where no terminal tells its width: a log is read with a scroll bar, a cut table not at all."""


def show(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> None:
    """Print a table: the first column names the row, the others are figures. Cells are text, never markup."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, title_style="bold")
    for i, name in enumerate(head):
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell if isinstance(cell, str) else short(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else _WIDE)
    console.print(table)
    if note:
        console.print(Text(note), soft_wrap=True)


def spread(row: Mapping[str, Any], name: str, write: Any = short) -> str:
    """`12.3 [10, 15]` of the columns `name`, `name_low` and `name_high`."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{write(row[name])} [{write(low)}, {write(high)}]" if low == low and low is not None else write(row[name])


def similarity(rows: Sequence[Mapping[str, Any]]) -> None:
    """Ranges of the cosine, beside the authors'."""
    head = ["granularity", "measure", "units", "lowest", "median", "highest", "the authors'"]
    cells = [
        [
            row["granularity"], row["measure"], str(row["units"]), row["min"], row["median"], row["max"],
            "" if row["authors_min"] is None else f"{row['authors_min']:.2f} to {row['authors_max']:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    show("cosine of input and output, over units", head, cells)


def influence(rows: Sequence[Mapping[str, Any]], spent: Mapping[str, int]) -> None:
    """Blocks by the weighted sum of their squared changes over steps, least first, beside their share by step."""
    blocks = [row for row in rows if row["granularity"] == "temporal_transformer"]
    steps = sorted({row["step"] for row in blocks})
    by_block: dict[str, dict[int, float]] = {}
    for row in blocks:
        by_block.setdefault(row["unit"], {})[row["step"]] = row["weight"] * row["change"]
    ordered = sorted(by_block, key=lambda block: sum(by_block[block].values()))
    cells = [[b, sum(by_block[b].values()), *(by_block[b][step] for step in steps)] for b in ordered]
    share = (spent["macs_walk"] + spent["macs_temporal_transformer"]) / spent["drawn_temporal_transformer"]
    note = f"blocks take {percent(share)} of the MACs that FVD draws with"
    show("change of the output, squared and weighted", ["without", "sum", *(f"step {k}" for k in steps)], cells, note)


def latency(rows: Sequence[Mapping[str, Any]]) -> None:
    """Measured time of a UNet call, by what is removed; most saved first, the whole UNet above, the ceiling below.

    Args:
        rows: of artefact `profile`, or of `latency`, whose savings stand beside those that single blocks predict.
    """
    first, *middle, last = rows
    watched = [row for row in middle if row["variant"] == "watched"]
    middle = [row for row in middle if row not in watched]
    predicted = "predicted" in first
    head = ["without", "blocks", "ms", "saves, ms", *(["predicted, ms"] if predicted else []), "of the call"]
    head += ["MACs", "parameters"]
    ordered = [first, *watched, *sorted(middle, key=lambda row: -row["saving"]), last]
    cells = [
        [
            row["variant"], str(row["blocks"]), milli(row["seconds"]), spread(row, "saving", milli),
            *([milli(row["predicted"])] if predicted else []), percent(row["saving_fraction"]), amount(row["macs"]),
            amount(row["parameters"]),
        ]
        for row in ordered
    ]  # fmt: skip
    ceiling = first["seconds"] / last["seconds"]
    note = f"full: nothing removed, noise; none: no motion module left, the ceiling of any gain, {ceiling:.2f}x"
    if watched:
        added = milli(sum(row["saving"] for row in middle))
        note += f"; watched: with a clock on every block, inside which all blocks together take {added} ms"
    if predicted:
        note += "; predicted: the time of each block inside the calls of `profile`, as shares of a call, added up"
    show("time of a UNet call, median and quartiles", head, cells, note)


def ranking(rows: Sequence[Mapping[str, Any]], note: str) -> None:
    """The blocks, least important first."""
    head = ["block", "score", "FVD without it", "paired", "rank", "tie", "cosine", "MACs", "parameters"]
    cells = [
        [
            row["block"], row["score"], spread(row, "fvd"), spread(row, "paired"),
            "" if row["rank_low"] is None else f"{row['rank_low'] + 1} to {row['rank_high'] + 1}",
            "tied" if row["tied"] else "", row["similarity"], amount(row["macs"]), amount(row["parameters"]),
        ]
        for row in rows
    ]  # fmt: skip
    show("least important first, by score (ranking.criterion)", head, cells, note)


def losses(name: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> None:
    """A round's loss terms at both ends, each the mean of up to five steps."""
    if not rows:
        print(": ".join(part for part in (name, "nothing was trained", note) if part))
        return
    few = max(1, min(5, len(rows) // 2))

    def mean(term: str, part: Sequence[Mapping[str, Any]]) -> str:
        known = [row[term] for row in part if row[term] is not None]
        return short(sum(known) / len(known)) if known else "-"

    terms = [term for term in ("total", "endpoint", "output", "feature", "task") if rows[0][term] is not None]
    cells = [[term, mean(term, rows[:few]), mean(term, rows[-few:])] for term in terms]
    show(f"{name}: {len(rows)} steps", ["loss", f"first {few}", f"last {few}"], cells, note)


def evaluation(rows: Sequence[Mapping[str, Any]]) -> None:
    """Every round and arm of both splits."""
    head = ["split, round", "arm", "removed", "FVD, same seeds", "FVD, other seeds", "null", "excess", "motion read"]
    cells = [
        [
            f"{row['split']} {row['round']}", row["arm"], str(row["removed"]), spread(row, "fvd"),
            spread(row, "fvd_cross"), row["null"], spread(row, "excess", percent), percent(row["motion_accuracy"]),
        ]
        for row in rows
    ]  # fmt: skip
    show("rounds", head, cells)


def confirmed(rows: Sequence[Mapping[str, Any]]) -> None:
    """The chosen round in all sets together, and in each."""
    head = [f"{rows[0]['round']}, set", "clips", "FVD, other seeds", "null", "excess", "FVD, same seeds", "motion read"]
    cells = [
        [
            row["set"] if i else f"{row['set']}, dealt anew", str(row["videos"]), spread(row, "fvd_cross"),
            row["null"], spread(row, "excess", percent), spread(row, "fvd"), spread(row, "motion_accuracy", percent),
        ]
        for i, row in enumerate(rows)
    ]  # fmt: skip
    norm = "all frames together" if rows[0]["motion_norm"] == "clip" else "each frame by itself"
    note = "all: the mean over many ways to deal these clips into sets, not over the rows below (docs/method.md)"
    show(f"confirmed under seeds that nothing else used; motion norm over {norm}", head, cells, note)
