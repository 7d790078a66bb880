"""The table of docs/real-teachers.md is that of the code's own lists, and these are what the code goes by."""

import re

from committed import ROOT
from typer.testing import CliRunner

from leanmotion.checking.taken import table, taken
from leanmotion.commands.cli import app


def test_the_table_in_the_docs_is_the_code_s() -> None:
    text = (ROOT / "docs/real-teachers.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- taken -->\n(.*)<!-- /taken -->", text, re.DOTALL)
    assert found and found[1] == table(), "put what `leanmotion taken` prints between the markers"


def test_it_is_printed() -> None:
    assert CliRunner().invoke(app, ["taken"]).stdout == table()


def test_rows_are_each_once_and_fit_a_table() -> None:
    rows = list(taken())
    assert len(set(rows)) == len(rows) > 50
    assert not [row for row in rows if "|" in "".join(row) or "\n" in "".join(row)]
    assert {row.setting for row in rows} >= {"teacher.base", "teacher.adapter", "clips.path", "clips.captions"}
