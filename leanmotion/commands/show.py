"""`leanmotion show`: an artefact as a table that fits the terminal, with what was left out and what its words mean."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.cells import cell_len, set_cell_size

from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.pipeline.meanings import META, ROWS, by_weight, for_eyes, heading, meaning
from leanmotion.pipeline.numbers import listed, missing, short
from leanmotion.pipeline.tables import artefact_of, read_frame, read_table, table_meta

_WIDE, _GAP, _CELL = 140, 2, 40
"""Columns where no terminal tells its width; between two columns; and of a text's cell, unless it is asked for."""
_ENDS = ("_low", "_high")


@dataclass
class _Shown:
    """A table's columns as cells. `left_out`: sentences on columns that are not there, or not from here."""

    artefact: str
    table: pa.Table
    cells: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    left_out: list[str] = field(default_factory=list[str])


def lines(path: Path, rows: int, columns: Sequence[str] = (), *, everything: bool = False) -> list[str]:
    """What `leanmotion show` prints of a table.

    A column with its interval is one column, `11.6 [9.3, 14.4]`. What is empty in all rows is left out; so is what
    does not fit, the least important first, unless it is asked for.

    Args:
        path: of a Parquet artefact.
        rows: how many rows to print.
        columns: which columns, in this order; by their weight where none are named.
        everything: all columns that hold anything, however wide that is.

    Raises:
        LeanmotionError: the file is no artefact, or a column is not in it.
    """
    name = artefact_of(path)
    table = read_table(path, name)
    meta = table_meta(table)
    shown = _Shown(name, table)
    if name == "ranking":
        _join_latency(shown, path.parent / "profile.parquet")
    if columns:
        _refuse_unknown(path, shown.table, columns)
    wanted = list(columns) or _telling(shown)
    head = shown.table.slice(0, rows)
    for column in wanted:
        shown.cells[column] = _cells(name, head, column, whole=bool(columns))
    width = shutil.get_terminal_size((_WIDE, 24)).columns
    if not columns and not everything:
        _fit(shown, width)
    return [*_grid(shown), "", *_below(shown, head.num_rows, meta, width)]


def _join_latency(shown: _Shown, profile: Path) -> None:
    """Measured time is in the profile alone, unless the criterion used it: for eyes it is put beside."""
    at, table = shown.table.column_names.index("latency"), shown.table
    if table.column("latency").null_count < table.num_rows or not table.num_rows or not profile.is_file():
        return
    try:
        times: Any = read_frame(profile, "profile").set_index("variant")["saving"].to_dict()
    except LeanmotionError as error:
        shown.left_out.append(f"latency: {error}")
        return
    saved = pa.array([times.get(block) for block in table.column("block").to_pylist()], pa.float64())
    shown.table = table.set_column(at, "latency", saved)
    shown.left_out.append(f"latency is from {profile}: measured time is in no other table, and this order used none")


def _refuse_unknown(path: Path, table: pa.Table, columns: Sequence[str]) -> None:
    for column in columns:
        known = table.column_names
        if column not in known:
            hint = did_you_mean(column, known) or f": name some of {', '.join(known)}"
            raise LeanmotionError(f"--columns {column}: {path} has no such column{hint}")
        if pa.types.is_binary(table.schema.field(column).type):
            raise LeanmotionError(f"--columns {column}: holds bytes: `-o sheet.png` draws videos")


def _telling(shown: _Shown) -> list[str]:
    """Columns that hold anything, by weight; ends of intervals stand with what they are of."""
    table, names = shown.table, shown.table.column_names
    empty = [name for name in names if table.num_rows and table.column(name).null_count == table.num_rows]
    if empty:
        shown.left_out.append(f"left out, empty in all rows: {listed(empty)}")
    hidden = {*empty, *(f"{name}{end}" for name in names for end in _ENDS)}
    if raw := [name for name in names if pa.types.is_binary(table.schema.field(name).type)]:
        shown.left_out.append(f"left out, no text: {listed(raw)}")
    hidden |= set(raw)
    return [name for name in by_weight(shown.artefact, names) if name not in hidden]


def _cells(artefact: str, table: pa.Table, column: str, *, whole: bool) -> list[str]:
    def read(name: str) -> list[Any]:
        return [for_eyes(artefact, column, value) for value in table.column(name).to_pylist()]

    values = read(column)
    if pa.types.is_list(table.schema.field(column).type):
        return [_list(value, whole) for value in values]
    ends = [f"{column}{end}" for end in _ENDS]
    if not set(ends) <= set(table.column_names):
        return [_cell(value, whole) for value in values]
    low, high = (read(end) for end in ends)
    spans = zip(values, low, high, strict=True)
    return [_cell(v, whole) + ("" if missing(a) else f" [{_cell(a, whole)}, {_cell(b, whole)}]") for v, a, b in spans]


def _cell(value: Any, whole: bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, float):
        return short(value)
    text = " ".join(str(value).split())
    return text if whole or cell_len(text) <= _CELL else f"{set_cell_size(text, _CELL - 3).rstrip()}..."


def _list(values: list[Any] | None, whole: bool) -> str:
    if values is None:
        return short(None)
    if values and not whole and not isinstance(values[0], str):
        return f"{len(values)} numbers"
    return _cell(" ".join(_cell(value, whole) for value in values), whole)


def _width(name: str, cells: Sequence[str]) -> int:
    return max(cell_len(text) for text in (name, *cells))


def _fit(shown: _Shown, width: int) -> None:
    """Keep the first columns that fit side by side; at least the very first."""
    used, kept, dropped = -_GAP, dict[str, list[str]](), list[str]()
    for name, cells in shown.cells.items():
        needed = _GAP + _width(heading(shown.artefact, name), cells)
        if kept and (dropped or used + needed > width):
            dropped.append(name)
        else:
            kept[name], used = cells, used + needed
    if dropped:
        shown.left_out.append(f"left out, too wide for here: {listed(dropped)} (`--all`, or `--columns {dropped[0]}`)")
    shown.cells = kept


def _grid(shown: _Shown) -> list[str]:
    left = {name for name in shown.cells if not _is_number(shown.table, name)}
    heads = {name: heading(shown.artefact, name) for name in shown.cells}
    wide = {name: _width(heads[name], cells) for name, cells in shown.cells.items()}

    def line(texts: Sequence[str]) -> str:
        padded = []
        for name, text in zip(shown.cells, texts, strict=True):
            space = " " * (wide[name] - cell_len(text))
            padded.append(text + space if name in left else space + text)
        return (" " * _GAP).join(padded).rstrip()

    return [line(list(heads.values())), *(line(row) for row in zip(*shown.cells.values(), strict=True))]


def _is_number(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _below(shown: _Shown, rows: int, meta: dict[str, str], width: int) -> list[str]:
    """How many rows there are, what one is, what was left out, and the words of the table."""
    total, name = shown.table.num_rows, shown.artefact
    some = "" if rows == total else f" (here {rows}: `--rows {total}`)"
    said = _filled("", f"{name}: {total} rows{some}, each {ROWS[name]}", width)
    said += [part for sentence in shown.left_out for part in _filled("", sentence, width)]
    words = [(heading(name, column), meaning(name, column)) for column in shown.cells]
    if any(f"{column}{_ENDS[0]}" in shown.table.column_names for column in shown.cells):
        words.append(("[low, high]", _interval(name, meta)))
    words += [(f"{key} = {_figure(value)}", META[key]) for key, value in sorted(meta.items()) if _speaks(key, shown)]
    return [*said, *(part for word, text in words if text for part in _filled(f"  {word}", text, width))]


def _speaks(key: str, shown: _Shown) -> bool:
    """Whether it tells a reader of these columns something: nulls do beside what they are of."""
    return key in META and (not key.startswith("null_") or key.removeprefix("null_") in shown.cells)


def _figure(text: str) -> str:
    return short(float(text)) if text.replace(".", "", 1).isdigit() else text


def _interval(artefact: str, meta: dict[str, str]) -> str:
    if artefact in ("profile", "latency"):
        return "lower and upper quartile of repeated calls"
    level = f"{float(meta['interval']):.0%} " if "interval" in meta else ""
    return f"{level}interval of the figure before it: what other clips or prompts might have given"


def _filled(word: str, text: str, width: int) -> list[str]:
    line = f"{word}: {text}" if word else text
    return textwrap.wrap(line, max(width, 40), subsequent_indent="      ", break_long_words=False)
