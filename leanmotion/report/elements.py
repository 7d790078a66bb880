"""What sections are built of: a table, and a figure with the numbers behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

Cell = str | Markup


@dataclass(frozen=True)
class Table:
    """A caption, a head and rows; the first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Figure:
    """One or more charts with one legend, the table behind them and the file that holds it all."""

    title: str
    charts: Sequence[Markup]
    legend: Markup = field(default_factory=Markup)
    note: Cell = ""
    table: Table | None = None
    csv: str = ""
