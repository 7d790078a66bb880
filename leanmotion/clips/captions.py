"""A user's table of captions, row by row: CSV in its dialects, or Parquet. What cannot be read as meant says why."""

from __future__ import annotations

import ast
import csv
import math
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.file_kinds import file_kind

LAYOUTS = (("file", "caption"), ("videoid", "name", "page_dir"))
"""Columns that are needed: ours, and WebVid's, whose video is `page_dir/videoid.mp4`."""
DELIMITERS = (",", "\t", ";", "|")
_MISSING = {"", "nan", "none", "null", "<na>", "n/a", "#n/a", "na"}
"""How programs write that there is nothing."""
_LONGEST = 1_000_000
"""Characters of a cell: a quote that nobody closes must not take in a whole file."""
_EXACT = {"halffloat": 2**11, "float": 2**24, "double": 2**53}
"""Up to where a float of this type (as Arrow calls it) holds every whole number."""
_NEEDED = "needed are file and caption, or videoid, name and page_dir"
_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

Exists = Callable[[str], bool]


@dataclass(frozen=True)
class Row:
    """A row: its number from 1, the video that it names, its caption; or the problem that it cannot be read for."""

    number: int
    file: str
    caption: str
    problem: str = ""


class _Unreadable(ValueError):
    """Why a cell cannot be read as it was meant."""


def read_rows(path: Path, exists: Exists) -> Iterator[Row]:
    """All rows of a captions file, streamed.

    A caption in the last column may hold commas without quotes. What is missing, or written as missing (`nan`), is
    empty. A row that the file itself contradicts (cells that fit no column, quotes that do not close, lists, a row that
    the next line seems to go on) comes with a problem, and is not guessed at.

    Args:
        path: UTF-8 or UTF-16; columns `file` and `caption`, or WebVid's `videoid`, `page_dir` and `name`.
        exists: whether a file of that name is there: how a row is told from the rest of another one.

    Raises:
        LeanmotionError: no such table, or without these columns.
    """
    try:
        if path.is_dir():
            raise LeanmotionError(f"{path}: is a folder: name one captions file, CSV or Parquet")
        kind = file_kind(path)
        if kind is not None and kind.name == "a Parquet table":
            yield from _parquet(path)
        elif kind is None or kind.name in ("a text", "empty"):
            yield from _whole(_csv(path, exists), exists)
        else:
            raise LeanmotionError(f"{path}: is {kind.name}: give the captions as CSV or Parquet")
    except UnicodeDecodeError as error:
        raise LeanmotionError(
            f"{path}: not a readable captions file (neither UTF-8 nor UTF-16: {error}): save it as UTF-8"
        ) from error
    except (OSError, csv.Error, ValueError) as error:
        raise LeanmotionError(f"{path}: not a readable captions file ({error}): CSV or Parquet") from error


def _parquet(path: Path) -> Iterator[Row]:
    file = pq.ParquetFile(path)
    places = _columns(path, file.schema_arrow.names)
    exact = {name: _EXACT.get(str(file.schema_arrow.types[place]), math.inf) for name, place in places.items()}
    number = 0
    for batch in file.iter_batches(1024, columns=[file.schema_arrow.names[place] for place in places.values()]):
        named = [
            batch.column(batch.schema.names.index(file.schema_arrow.names[p])).to_pylist() for p in places.values()
        ]
        for cells in zip(*named, strict=True):
            number += 1
            row = dict(zip(places, cells, strict=True))
            if isinstance(found := row.get("videoid"), float) and abs(found) >= exact["videoid"]:
                yield Row(number, "", "", "the number of its video went through floats too short for it")
                continue
            yield _row(number, row)


def _csv(path: Path, exists: Exists) -> Iterator[tuple[Row, bool]]:
    """Rows, and whether a row has fewer cells than the header: then it may be the rest of the one before."""
    csv.field_size_limit(_LONGEST)
    with path.open("rb") as file:
        encoding = _BOMS.get(file.read(2), "utf-8-sig")
    with path.open(newline="", encoding=encoding) as file:
        lines = _Lines(file)
        first = next((line for line in lines if line.strip()), "")
        if re.fullmatch(r"sep=.\s*", first):  # written for Excel; the header tells it too
            first = next(iter(lines), "")
        if "\0" in first:
            raise LeanmotionError(
                f"{path}: not a readable captions file (UTF-16 without its mark, or UTF-32?): save it as UTF-8"
            )
        delimiter, header, blank = _header(path, first)
        places = _columns(path, header)
        last = max(places, key=lambda name: places[name])
        told = len(header) - 1 if places[last] == len(header) - 1 and last in ("caption", "name") else None
        number = 0
        while (cells := _cells(lines, delimiter, exists, places)) is not None:
            if not cells:
                continue
            number += 1
            if isinstance(cells, str):
                yield Row(number, "", "", cells), False
                continue
            for _ in range(blank):
                if len(cells) > len(header) and not cells[-1].strip():
                    cells.pop()
            if len(cells) > len(header) and told is not None:
                rest = delimiter.join(cells[told:])
                cells = [*cells[:told], rest if rest.strip(f"{delimiter} ") else ""]
            if len(cells) > len(header):
                yield (
                    Row(number, "", "", f"has {len(cells)} cells, the header {len(header)}: quote what holds a comma"),
                    False,
                )
                continue
            found = {name: cells[place] if place < len(cells) else None for name, place in places.items()}
            yield _row(number, found), len(cells) < len(header)


class _Lines:
    """Lines of a file that can be put back: a quote that does not close takes in lines that are rows of their own."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rest, self._back = iter(lines), deque[str]()
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.taken.append(self._back.popleft() if self._back else next(self._rest))
        return self.taken[-1]

    def put_back(self) -> None:
        """All but the first of the lines that were taken since `taken` was emptied."""
        self._back.extendleft(reversed(self.taken[1:]))


def _cells(lines: _Lines, delimiter: str, exists: Exists, places: dict[str, int]) -> list[str] | str | None:
    """The cells of the next row; a problem in words; None at the end."""
    lines.taken.clear()
    try:
        cells = next(csv.reader(lines, delimiter=delimiter, strict=True))
    except StopIteration:
        return None
    except csv.Error as error:
        lines.put_back()
        return f"its quotes do not close ({error})"
    if any(_is_row(line.split(delimiter), exists, places) for line in lines.taken[1:]):
        lines.put_back()
        return "its quotes do not close before the next row"
    return cells


def _is_row(cells: Sequence[str], exists: Exists, places: dict[str, int]) -> bool:
    """Whether a line that quotes took in is a row of its own: it names a file that is there."""
    name = _row(0, {name: cells[place] if place < len(cells) else None for name, place in places.items()}).file
    return bool(name) and exists(name)


def _whole(rows: Iterable[tuple[Row, bool]], exists: Exists) -> Iterator[Row]:
    """The rows; one whose next line is too short for a row, and names no file, has lost its end to that line."""
    held: Row | None = None
    for row, short in rows:
        rest = short and not (row.file and exists(row.file))
        if held is not None:
            cut = rest and not held.problem
            yield replace(held, problem="the next line is no row: quote a caption with line ends") if cut else held
        held = replace(row, problem="has too few cells: is it the rest of the row before?") if rest else row
    if held is not None:
        yield held


def _header(path: Path, line: str) -> tuple[str, list[str], int]:
    """The delimiter, by which one makes columns that are needed; the names of columns; how many blank ones follow."""
    found = [next(csv.reader([line], delimiter=delimiter), []) for delimiter in DELIMITERS]
    for delimiter, names in zip(DELIMITERS, found, strict=True):
        count = len(names)
        while names and not names[-1].strip():
            names.pop()
        if _layout(names):
            return delimiter, names, count - len(names)
    if not line:
        raise LeanmotionError(f"{path}: is empty: {_NEEDED}")
    if line.lstrip()[:1] in ("{", "["):
        raise LeanmotionError(f"{path}: is JSON: give the captions as CSV or Parquet")
    _columns(path, found[0])
    raise AssertionError("refused above")


def _layout(names: Sequence[str]) -> tuple[str, ...] | None:
    known = {name.strip().casefold() for name in names}
    return next((columns for columns in LAYOUTS if set(columns) <= known), None)


def _columns(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Needed column -> its place."""
    if (layout := _layout(names)) is None:
        raise LeanmotionError(f"{path}: has columns {', '.join(names)[:200]}: {_NEEDED}")
    plain = [name.strip().casefold() for name in names]
    if twice := [name for name in layout if plain.count(name) > 1]:
        raise LeanmotionError(f"{path}: has two columns {twice[0]}: keep one")
    return {name: plain.index(name) for name in layout}


def _row(number: int, cells: dict[str, Any]) -> Row:
    try:
        if "file" in cells:
            file = _text(cells["file"])
        else:
            name, folder = _number(_text(cells["videoid"], whole=True)), _text(cells["page_dir"])
            file = "" if not name else f"{folder}/{name}.mp4" if folder else f"{name}.mp4"
        try:
            caption = _caption(cells["caption"] if "caption" in cells else cells["name"])
        except _Unreadable as error:
            return Row(number, file, "", f"its caption {error}")
    except _Unreadable as error:
        return Row(number, "", "", f"the name of its video {error}")
    if not file:
        return Row(number, "", caption, "names no video")
    return Row(number, file, caption, "" if caption else "no caption")


def _text(value: Any, *, whole: bool = False) -> str:
    """A cell as text, empty where there is nothing; `whole`: also of a number."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise _Unreadable("is not UTF-8") from None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if whole and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _Unreadable(f"is a {type(value).__name__}, not a text")
    value = value.strip()
    return "" if value.casefold() in _MISSING else value


def _number(text: str) -> str:
    """A number that went through floats: `5678.0`."""
    return text.partition(".")[0] if re.fullmatch(r"\d+\.0+", text) else text


def _caption(value: Any) -> str:
    text = _text(value)
    if quoted := re.fullmatch(r'"((?:[^"]|"")+)"', text):  # behind a space, quotes were none to the reader
        text = quoted[1].replace('""', '"')
    if "\0" in text:
        raise _Unreadable("holds a NUL")
    if any(unicodedata.category(character) == "Cc" and character not in "\t\n\r" for character in text):
        raise _Unreadable("holds control characters")
    if "\ufffd" in text:
        raise _Unreadable("was read in a wrong encoding before (it holds \ufffd)")
    if _is_list(text):
        raise _Unreadable("is a list: give one caption a row")
    return text if any(character.isprintable() and not character.isspace() for character in text) else ""


def _is_list(text: str) -> bool:
    """Whether this is a list or bytes as a program wrote them (`['one', 'two']`), cut short or not."""
    if re.match(r"""(?:array\()?[\[{]\s*b?['"]|np\.\w+\(""", text):
        return True
    if text[:1] not in ("[", "{", "(", "b"):
        return False
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    texts = isinstance(found, tuple) and found and all(isinstance(one, str) for one in found)
    return bool(texts) or isinstance(found, list | dict | set | bytes)
