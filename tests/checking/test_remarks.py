"""What is no error, and is said once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_settings

from leanmotion.checking.refusals import Opened
from leanmotion.checking.remarks import remarks
from leanmotion.model.requests import cut_prompts, cut_remarks
from leanmotion.model.teacher import load_base
from leanmotion.pipeline.settings import Teacher

# The tests' tokenizer takes 12 tokens: ten letters between start and end. A word's last letter is a token of its own.
TEN, ELEVEN, OTHER = "abcdefghij", "abcdefghijk", "abcdefghijz"


@pytest.fixture(scope="module")
def tokenizer(teacher_folder: Any) -> Any:
    folder = teacher_folder(levels=2, layers=1)
    return load_base(Teacher(base=str(folder.base), adapter=str(folder.adapter))).tokenizer


@pytest.mark.parametrize(
    ("prompts", "cut", "same"),
    [
        ([], [], 0),
        ([TEN, "a"], [], 0),
        ([TEN, ELEVEN], [ELEVEN], 0),
        ([ELEVEN, OTHER, "a"], [ELEVEN, OTHER], 1),
        (["a" + TEN, "b" + TEN], ["a" + TEN, "b" + TEN], 0),
    ],
)
def test_prompts_that_the_text_encoder_does_not_read_whole(tokenizer, prompts, cut, same) -> None:
    assert cut_prompts(tokenizer, prompts) == (cut, same)


def test_what_is_said_of_them(tokenizer) -> None:
    assert cut_remarks("prompts", [TEN], tokenizer) == []
    (line,) = cut_remarks("prompts", [TEN, ELEVEN, OTHER], tokenizer)
    assert line.startswith("prompts: 2 of 3 cut at the 12 tokens") and "; 1 then the same" in line
    assert ELEVEN in line


def test_comments_and_long_prompts_are_said_once_with_how_many(teacher_folder: Any, tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text(f"#1 fan\n\n# note\n  # kept\na cat\n{ELEVEN}\n{OTHER}\n")
    prompts = {"source": str(source), "confirm_source": str(source), "negative": ELEVEN}
    opened = Opened(tiny_settings(teacher_folder(levels=2, layers=1), prompts=prompts))
    assert opened.prompts == ["# kept", "a cat", ELEVEN, OTHER]
    comments, long, negative = remarks(opened)
    assert comments == f"prompts: 2 lines of {source} with # at the beginning: left out, as comments"
    assert long.startswith("prompts: 2 of 4 cut") and negative.startswith("prompts.negative: 1 of 1 cut")
    source.write_text("a cat\na dog\n")
    both = {"source": str(source), "confirm_source": str(source)}
    assert remarks(Opened(tiny_settings(teacher_folder(levels=2, layers=1), prompts=both))) == []
