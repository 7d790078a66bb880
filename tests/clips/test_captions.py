"""Captions files as people have them: read as they were meant, or listed with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leanmotion.clips.captions import read_rows
from leanmotion.clips.video_folder import folder_clips, inside
from leanmotion.errors import LeanmotionError

THERE = {"a.mp4", "b.mp4", "p/7.mp4", "7.mp4"}


def rows(path: Path) -> tuple[list[tuple[str, str]], list[tuple[int, str]]]:
    """What was read, and what was not: (file, caption), and (number, reason)."""
    found = list(read_rows(path, lambda name: name in THERE))
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    return [(r.file, r.caption) for r in found if not r.problem], [(r.number, r.problem) for r in found if r.problem]


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "captions.csv").write_bytes(text.encode(encoding))
    return folder / "captions.csv"


CAT, DOG = ("a.mp4", "a cat"), ("b.mp4", "a dog")

MEANT: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "plain": ("file,caption\na.mp4,a cat\nb.mp4,a dog\n", [CAT, DOG]),
    "commas without quotes": (
        "file,caption\na.mp4,a cat, fast, at night\nb.mp4,a dog\n",
        [("a.mp4", "a cat, fast, at night"), DOG],
    ),
    "WebVid, commas without quotes": (
        "videoid,page_dir,name\n7,p,Aerial view, sunset, 4k\n",
        [("p/7.mp4", "Aerial view, sunset, 4k")],
    ),
    "commas in quotes": ('file,caption\na.mp4,"a cat, fast"\n', [("a.mp4", "a cat, fast")]),
    "quotes behind a space": ('file,caption\na.mp4, "a cat, fast"\n', [("a.mp4", "a cat, fast")]),
    "doubled quotes": ('file,caption\na.mp4,"a ""big"" cat"\n', [("a.mp4", 'a "big" cat')]),
    "a quote inside": ('file,caption\na.mp4,a 5" knife\nb.mp4,a dog\n', [("a.mp4", 'a 5" knife'), DOG]),
    "a line end in quotes": ('file,caption\na.mp4,"a cat\nruns"\nb.mp4,a dog\n', [("a.mp4", "a cat\nruns"), DOG]),
    "more columns": ("caption,x,file\na cat,1,a.mp4\n", [CAT]),
    "an index": (",file,caption\n0,a.mp4,a cat\n", [CAT]),
    "trailing commas": ("file,caption,\na.mp4,a cat,\nb.mp4,a dog, big,\n", [CAT, ("b.mp4", "a dog, big")]),
    "a comma at the end": ("file,caption\na.mp4,a cat,\n", [("a.mp4", "a cat,")]),
    "bars": ("file|caption\na.mp4|a cat, fast\n", [("a.mp4", "a cat, fast")]),
    "Excel's first line": ("sep=;\nfile;caption\na.mp4;a cat\n", [CAT]),
    "brackets": (
        "file,caption\na.mp4,[intro] a cat\nb.mp4,(a dog)\n",
        [("a.mp4", "[intro] a cat"), ("b.mp4", "(a dog)")],
    ),
    "semicolons": ("file;caption\na.mp4;a cat, fast\n", [("a.mp4", "a cat, fast")]),
    "tabs": ("file\tcaption\na.mp4\ta cat, fast\n", [("a.mp4", "a cat, fast")]),
    "headings in capitals, with spaces": ("File, Caption\na.mp4, a cat\n", [CAT]),
    "line ends of Windows": ("\ufefffile,caption\r\na.mp4,a cat\r\n", [CAT]),
    "line ends of old Macs": ("file,caption\ra.mp4,a cat\r", [CAT]),
    "a blank line before all": ("\n \nfile,caption\na.mp4,a cat\n", [CAT]),
    "WebVid, a line end in quotes": (
        'videoid,page_dir,name\n7,p,"a cat\nruns, fast"\n',
        [("p/7.mp4", "a cat\nruns, fast")],
    ),
    "blank lines": ("file,caption\n\na.mp4,a cat\n\n", [CAT]),
    "ids that were floats": (
        "videoid,page_dir,name\n7.0,,a cat\n7.00,,a dog\n",
        [("7.mp4", "a cat"), ("7.mp4", "a dog")],
    ),
    "no folder, as pandas writes it": (
        "videoid,page_dir,name\n7,nan,a cat\n7,,a dog\n",
        [("7.mp4", "a cat"), ("7.mp4", "a dog")],
    ),
}


@pytest.mark.parametrize("name", MEANT)
def test_what_is_read_as_it_was_meant(name: str, tmp_path: Path) -> None:
    text, wanted = MEANT[name]
    assert rows(table(tmp_path, text)) == (wanted, [])


LISTED: dict[str, tuple[str, list[tuple[str, str]], list[tuple[int, str]]]] = {
    "no caption": ("file,caption\na.mp4,\nb.mp4,a dog\n", [DOG], [(1, "no caption")]),
    "missing ones": (
        "file,caption\na.mp4,nan\na.mp4,None\na.mp4, N/A \nnan,a cat\n",
        [],
        [(1, "no caption"), (2, "no caption"), (3, "no caption"), (4, "names no video")],
    ),
    "commas alone": ("file,caption\na.mp4,,\na.mp4,, ,\nb.mp4,a dog\n", [DOG], [(1, "no caption"), (2, "no caption")]),
    "nothing to see": ("file,caption\na.mp4,\u200b\nb.mp4,a dog\n", [DOG], [(1, "no caption")]),
    "controls": ("file,caption\na.mp4,a\x07cat\nb.mp4,a dog\n", [DOG], [(1, "control characters")]),
    "lost letters": ("file,caption\na.mp4,caf\ufffd\nb.mp4,a dog\n", [DOG], [(1, "wrong encoding")]),
    "a tuple": ("file,caption\na.mp4,\"('one', 'two')\"\nb.mp4,a dog\n", [DOG], [(1, "is a list")]),
    "a list cut short": ("file,caption\na.mp4,\"['one', 'tw\"\nb.mp4,a dog\n", [DOG], [(1, "is a list")]),
    "an array": ("file,caption\na.mp4,\"array(['one'], dtype=object)\"\nb.mp4,a dog\n", [DOG], [(1, "is a list")]),
    "bytes": ("file,caption\na.mp4,b'a cat'\nb.mp4,a dog\n", [DOG], [(1, "is a list")]),
    "a list": ("file,caption\na.mp4,\"['one', 'two']\"\nb.mp4,a dog\n", [DOG], [(1, "is a list")]),
    "an unquoted line end": (
        "file,caption\na.mp4,a cat\nthat runs\nb.mp4,a dog\n",
        [DOG],
        [(1, "the next line is no row"), (2, "too few cells")],
    ),
    "a row without its caption": ("file,caption\na.mp4,a cat\nb.mp4\n", [CAT], [(2, "no caption")]),
    "a quote that closes too early": (
        'file,caption\na.mp4,"a 5" knife\nb.mp4,a dog\n',
        [DOG],
        [(1, "quotes do not close")],
    ),
    "a quote that never closes": ('file,caption\na.mp4,"a cat\nb.mp4,a dog\n', [DOG], [(1, "quotes do not close")]),
    "a quote that a later row closes": (
        'file,caption\na.mp4,"a cat\nb.mp4,a dog"\n',
        [("b.mp4", 'a dog"')],
        [(1, "quotes do not close before the next row")],
    ),
    "WebVid, a quote that a later row closes": (
        'videoid,page_dir,name\n7,p,"a cat\n7,,a dog"\n',
        [("7.mp4", 'a dog"')],
        [(1, "quotes do not close before the next row")],
    ),
    "a text as NumPy writes it": ("file,caption\na.mp4,np.str_('a cat')\nb.mp4,a dog\n", [DOG], [(1, "is a list")]),
    "commas where the caption is not last": (
        "caption,file\na cat, fast,a.mp4\na dog,b.mp4\n",
        [DOG],
        [(1, "has 3 cells, the header 2")],
    ),
    "a NUL": ("file,caption\na.mp4,a\0cat\nb.mp4,a dog\n", [DOG], [(1, "NUL")]),
}


@pytest.mark.parametrize("name", LISTED)
def test_what_cannot_be_read_is_listed(name: str, tmp_path: Path) -> None:
    text, wanted, problems = LISTED[name]
    found, reasons = rows(table(tmp_path, text))
    assert found == wanted
    assert [number for number, _ in reasons] == [number for number, _ in problems]
    assert all(said in reason for (_, reason), (_, said) in zip(reasons, problems, strict=True)), reasons


# A captions file holds what people write: any text but NUL, other line ends than \n (which CSV keeps as they are) and
# what this reader takes for something else than a caption, delimiters alone among it.
MISSING = {"", "nan", "none", "null", "<na>", "n/a", "#n/a", "na"}
captions = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
    .map(str.strip)
    .filter(lambda text: text.casefold() not in MISSING and text[0] not in '[{"' and "\ufffd" not in text)
    .filter(lambda text: any(c.isprintable() and not c.isspace() for c in text.replace(",", "")))
)


@given(st.lists(captions, min_size=1, max_size=4), st.booleans())
def test_every_caption_comes_back_whole(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], quoted: bool
) -> None:
    """As any writer of CSV leaves it, and as somebody types it who knows of no quotes."""
    import csv

    # A quote behind a comma opens a cell: such a row is listed, as quotes that do not close.
    assume(quoted or not any(',"' in text for text in said))
    path = tmp_path_factory.getbasetemp() / "captions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        if quoted:
            csv.writer(file).writerows([["file", "caption"], *(["a.mp4", text] for text in said)])
        else:
            file.write("file,caption\n" + "".join(f"a.mp4,{text}\n" for text in said))
    assert rows(path) == ([("a.mp4", text) for text in said], [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    assert rows(table(tmp_path, "file,caption\na.mp4,ein Bär\n", encoding)) == ([("a.mp4", "ein Bär")], [])


COLUMNS: dict[str, tuple[dict[str, Any], list[tuple[str, str]], list[str]]] = {
    "bytes": ({"file": [b"a.mp4"], "caption": [b"a cat"]}, [CAT], []),
    "missing": (
        {"file": ["a.mp4", "b.mp4", None], "caption": [None, "a dog", "x"]},
        [DOG],
        ["no caption", "names no video"],
    ),
    "all missing": ({"file": ["a.mp4"], "caption": pa.array([float("nan")])}, [], ["no caption"]),
    "numbers": ({"file": ["a.mp4"], "caption": [5]}, [], ["is a int, not a text"]),
    "lists": ({"file": ["a.mp4"], "caption": [["one", "two"]]}, [], ["is a list, not a text"]),
    "dictionaries": (
        {"file": pa.array(["a.mp4"]).dictionary_encode(), "caption": pa.array(["a cat"], pa.large_string())},
        [CAT],
        [],
    ),
    "WebVid": (
        {"videoid": [7, 7], "page_dir": [None, "p"], "name": ["a cat", "a dog"]},
        [("7.mp4", "a cat"), ("p/7.mp4", "a dog")],
        [],
    ),
    "WebVid, through floats": (
        {"videoid": [7.0, float("nan")], "page_dir": pa.array([float("nan")] * 2), "name": ["a cat", "x"]},
        [("7.mp4", "a cat")],
        ["names no video"],
    ),
    "WebVid, through floats that are too short": (
        {"videoid": pa.array([7.0, 2.0**24 + 2], pa.float32()), "page_dir": ["", ""], "name": ["a cat", "x"]},
        [("7.mp4", "a cat")],
        ["went through floats too short for it"],
    ),
    "capitals": ({"File": ["a.mp4"], "CAPTION": ["a cat"]}, [CAT], []),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("suffix", ["parquet", "PQ", "csv"])
def test_parquet(name: str, suffix: str, tmp_path: Path) -> None:
    """By what is in it, whatever the name ends in."""
    columns, wanted, problems = COLUMNS[name]
    pq.write_table(pa.table(columns), tmp_path / f"captions.{suffix}")
    found, reasons = rows(tmp_path / f"captions.{suffix}")
    assert found == wanted and len(reasons) == len(problems)
    assert all(said in reason for (_, reason), said in zip(reasons, problems, strict=True)), reasons


REFUSED = {
    "empty": (b"", "is empty: needed are file and caption"),
    "JSON": (b'[{"file": "a.mp4", "caption": "a cat"}]', "is JSON"),
    "JSON lines": (b'{"file": "a.mp4", "caption": "a cat"}\n', "is JSON"),
    "UTF-16 without its mark": ("file,caption\na.mp4,a cat\n".encode("utf-16-le"), "save it as UTF-8"),
    "UTF-32": ("file,caption\na.mp4,a cat\n".encode("utf-32"), "save it as UTF-8"),
    "Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of old Office programs"),
    "Feather": (b"ARROW1\0\0\xff\xff", "an Arrow"),
    "a database": (b"SQLite format 3\0", "an SQLite database"),
    "no header": (b"a.mp4,a cat\n", "has columns a.mp4, a cat: needed are file and caption"),
    "other columns": (b"path,text\na.mp4,a cat\n", "has columns path, text"),
    "a column twice": (b"file,caption,Caption\na.mp4,x,y\n", "two columns caption"),
    "Latin-1": ("file,caption\na.mp4,caf\xe9\n".encode("latin-1"), "save it as UTF-8"),
    "compressed": (b"\x1f\x8b\x08\x00rest", "compressed by gzip"),
    "a web page": (b"<html>", "a web page"),
    "a torn table": (b"PAR1 not really", "not a readable captions file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_captions_file(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    (tmp_path / "captions.csv").write_bytes(content)
    with pytest.raises(LeanmotionError, match=said) as caught:
        rows(tmp_path / "captions.csv")
    assert "\n" not in str(caught.value) and "captions.csv" in str(caught.value)


def test_a_folder_of_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match="is a folder"):
        rows(tmp_path)


@pytest.mark.parametrize(
    "name", ["sub dir/ü.mp4", "./sub dir/ü.mp4", "sub dir\\ü.mp4", "sub dir/u\u0308.mp4", "videos/sub dir/ü.mp4"]
)
def test_names_as_people_write_them(name: str, tmp_path: Path) -> None:
    video = tmp_path / "videos/sub dir/ü.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    assert inside(tmp_path / "videos", name, "row 1").samefile(video)
    assert inside(tmp_path / "videos", str(video), "row 1").samefile(video)


def test_rows_that_were_not_read_are_listed_with_their_number(tmp_path: Path) -> None:
    skipped: list[Any] = []
    listed = table(tmp_path, 'file,caption\na.mp4,"a 5" knife\nb.mp4,\n,a dog\n')
    assert not list(folder_clips(tmp_path, listed, frames=2, height=8, width=8, skipped=skipped))
    assert [one.file for one in skipped] == ["row 1", "b.mp4", "row 3"]
