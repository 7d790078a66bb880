"""What stages say at their end: whole tables, text that stays text, the figures of their artefacts; and progress."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from leanmotion.pipeline import terminal
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.tables import TableWriter
from leanmotion.videos.codec import encode
from leanmotion.videos.listing import show_takes


def test_a_log_gets_whole_words_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a_name_of_a_block_that_is_long" * 2
    terminal.show("[bold]title[/bold]", ["name", "value"], [[long, 1.23456], ["[red]x", "1.2 [0.9, 1.5]"]], "[a note]")
    said = capsys.readouterr().out
    assert long in said and "1.23" in said and "[red]x" in said and "1.2 [0.9, 1.5]" in said
    assert "[bold]title[/bold]" in said and "[a note]" in said and "\x1b" not in said


def test_spread() -> None:
    assert terminal.spread({"fvd": 1.0, "fvd_low": 0.5, "fvd_high": 2.0}, "fvd") == "1 [0.5, 2]"
    assert terminal.spread({"fvd": 1.0, "fvd_low": None, "fvd_high": None}, "fvd") == "1"
    assert terminal.spread({"fvd": 1.0}, "fvd") == "1"


def test_videos_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture that brightens by 3 grey levels a frame moves by 3."""
    frames = np.stack([np.full((16, 16, 3), 3 * i, np.uint8) for i in range(4)])
    row = {"split": "rank", "seeds": "a", "removed": ["mid_0"], "seed": 1, "frames": 4, "height": 16, "width": 16}
    rows = [{**row, "variant": "mid_0", "index": i, "prompt": "x", "video": encode(frames)} for i in range(6)]
    with TableWriter(tmp_path / "v.parquet", "videos") as writer:
        writer.write(rows)
    show_takes(tmp_path / "v.parquet")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("mid_0"))
    assert line.split()[:5] == ["mid_0", "rank", "a", "1", "6"] and line.split()[-1] == "3"


def test_the_row_of_all_sets_says_that_it_is_not_their_mean(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"fvd_cross": 1.0, "null": 1.0, "excess": 0.0, "fvd": 1.0, "motion_accuracy": None}
    rows = [
        {"round": "r1", "motion_norm": "clip", "videos": 4, "set": name, **figures} for name in ("all", "confirm/1")
    ]
    terminal.confirmed(rows)
    said = capsys.readouterr().out
    assert "all, dealt anew" in said and "confirm/1, dealt" not in said
    assert "not over the rows below" in said


def timed(name: str, seconds: float) -> dict:
    saving = 0.1 - seconds
    return {
        "variant": name, "blocks": 1, "seconds": seconds, "saving": saving, "saving_low": saving, "saving_high": saving,
        "saving_fraction": saving / 0.1, "macs": 2_000_000, "parameters": 3_000,
    }  # fmt: skip


def test_latency_puts_the_dearest_first(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.latency([timed("full", 0.1), timed("cheap", 0.099), timed("dear", 0.08), timed("none", 0.05)])
    said = capsys.readouterr().out
    assert [word for word in said.split() if word in ("cheap", "dear")] == ["dear", "cheap"]
    assert "2.00x" in said and "20.0%" in said and "2 M" in said


def test_latency_of_watched_calls_stands_above_the_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    """Their own saving is below zero: what the clocks cost. Blocks added up, 1 and 20 ms, stand in the note."""
    times = {"full": 0.1, "watched": 0.1005, "cheap": 0.099, "dear": 0.08, "none": 0.05}
    terminal.latency([timed(name, seconds) for name, seconds in times.items()])
    said = capsys.readouterr().out
    table = said[: said.index("full: nothing removed")].split()
    names = [word for word in table if word in ("watched", "cheap", "dear")]
    assert names == ["watched", "dear", "cheap"]
    assert "-0.5 [-0.5, -0.5]" in said and "all blocks together take 21 ms" in said


def test_losses_of_few_steps_and_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"total": 4.0 - i, "endpoint": None, "output": 1.0, "feature": None, "task": None} for i in range(3)]
    terminal.losses("r1", rows, "kept")
    said = capsys.readouterr().out
    assert (
        "r1: 3 steps" in said and "kept" in said and ["total", "4", "2"] in [line.split() for line in said.splitlines()]
    )
    assert not {"feature", "endpoint"} & set(said.split())
    terminal.losses("r2", [])
    assert capsys.readouterr().out == "r2: nothing was trained\n"
    terminal.losses("r2", [], "no harm")
    assert capsys.readouterr().out == "r2: nothing was trained: no harm\n"


def test_progress_is_sparse_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every 30 s with rate and time left, one at the end; nothing at all of what is quick."""
    now, said = [0.0], io.StringIO()
    monkeypatch.setattr("leanmotion.pipeline.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", said)
    quick = Progress("quick", 2)
    quick.update(2)
    quick.close()
    assert said.getvalue() == ""
    bar = Progress("long", 400)
    for _ in range(8):
        now[0] += 10
        bar.update(10)
    bar.close()
    assert said.getvalue().splitlines() == [
        "long: 30/400 clip, 1/s, 06:10 left", "long: 60/400 clip, 1/s, 05:40 left", "long: 80/400 clip in 01:20",
    ]  # fmt: skip
