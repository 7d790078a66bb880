"""The line that users see: short enough to be read, with its beginning and its end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_params

from leanmotion.errors import LeanmotionError, shortened
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.watched_paths import check_paths

LONG = "wide " * 2000  # 10,000 characters
PLACES = [
    ("teacher", "base"), ("teacher", "dtype"), ("teacher", "sha256"), ("prompts", "source"), ("prompts", "rank"),
    ("sampling", "scheduler"), ("sampling", "frames"), ("extractor", "name"), ("clips", "path"), ("report", "clips"),
    ("distillation", "trainable"), ("sampling", "stpes"), ("rounds", "r1"),
]  # fmt: skip


@pytest.mark.parametrize("value", [LONG, "x" * 10_000, [LONG] * 50, {"a": LONG}], ids=["words", "word", "list", "map"])
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_long_value_is_cut_where_it_is_quoted(place: tuple[str, str], value: object, tmp_path: Path) -> None:
    section, key = place
    params = tiny_params(SimpleNamespace(base=tmp_path, adapter=tmp_path), tmp_path)
    params[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(LeanmotionError) as caught:
        check_paths(load_settings(tmp_path / "params.yaml"))
    line = str(caught.value)
    assert len(line) <= 1000 and "\n" not in line and section in line and key in line


@given(st.text(max_size=3000))
def test_short_lines_stay_and_long_ones_keep_both_ends(text: str) -> None:
    cut = shortened(text)
    assert len(cut) <= 1000 and shortened(cut) == cut
    if "'" not in text and '"' not in text:
        assert cut == text or (len(text) > 1000 and text.startswith(cut[:600]) and text.endswith(cut[-300:]))


def test_an_error_in_an_error_is_cut_once(tmp_path: Path) -> None:
    inner = LeanmotionError(f"x is {LONG!r}: mend it")
    assert str(LeanmotionError(f"round r1: {inner}")) == f"round r1: {inner}" and str(inner).endswith("': mend it")


@pytest.mark.parametrize("value", ["a\nb", "a\r\nb", "a\n\n  b"])
def test_a_value_with_line_ends_stays_in_one_line(value: str) -> None:
    assert str(LeanmotionError(f"prompts.source: {value} is missing")) == "prompts.source: a b is missing"
