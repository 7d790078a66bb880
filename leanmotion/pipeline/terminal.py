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
    note = "all: the mean over many ways to deal these clips into sets, not over the rows below (docs/method.md)"
    show(f"confirmed under seeds that nothing else used; motion norm over {norm}", head, cells, note)
