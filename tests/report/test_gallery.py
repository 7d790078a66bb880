"""Clips side by side, and files of them by their suffix."""

from pathlib import Path

import numpy as np
import pytest
from finished_run import Run
from PIL import Image
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.errors import LeanmotionError
from leanmotion.report.gallery import enlarge, matching_clips, mosaic, write_clips


def clip(value: int, frames: int = 3, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((frames, height, width, 3), value, np.uint8)


def test_mosaic_places_clips_in_rows_with_gaps() -> None:
    whole = mosaic([clip(10), clip(20), clip(30)], columns=2)
    assert whole.shape == (3, 4 + 2 + 4, 6 + 2 + 6, 3)
    assert (whole[:, :4, :6] == 10).all() and (whole[:, :4, 8:] == 20).all() and (whole[:, 6:, :6] == 30).all()
    assert (whole[:, 4:6] == 255).all() and (whole[:, :, 6:8] == 255).all() and (whole[:, 6:, 8:] == 255).all()
    with pytest.raises(LeanmotionError, match="2 shapes"):
        mosaic([clip(1), clip(1, frames=2)], columns=2)
    with pytest.raises(LeanmotionError, match="0 shapes"):
        mosaic([], columns=1)


def test_enlarge_stays_within() -> None:
    assert enlarge(clip(1), 20).shape == (3, 12, 18, 3)
    assert enlarge(clip(1), 5).shape == (3, 4, 6, 3)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4"])
def test_every_suffix(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"a{suffix}"
    moving = np.concatenate([clip(value, frames=1, height=16, width=16) for value in (0, 99, 200)])
    write_clips([moving, clip(200, height=16, width=16)], out)
    assert [path.name for path in tmp_path.iterdir()] == [out.name] and out.stat().st_size > 50
    if suffix != ".mp4":
        assert getattr(Image.open(out), "n_frames", 1) == (3 if suffix == ".gif" else 1)
    with pytest.raises(LeanmotionError, match=r"\.png, \.gif, \.mp4"):
        write_clips([clip(1)], tmp_path / "a.avi")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


def test_matching_clips_are_of_the_same_prompts(run: Run) -> None:
    rounds = run.data / "videos/rounds/r2.parquet"
    one, other = matching_clips([(rounds, "pruned"), (rounds, "distilled")], "report", "b", 3)
    assert len(one) == len(other) == 3 and one[0].shape == other[0].shape
    with pytest.raises(LeanmotionError, match="not one"):
        matching_clips([(rounds, "full")], "report", "b", 3)


def test_show_writes_what_the_suffix_says(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = run.data / "videos/rounds/r2.parquet"
    for name in ("a.png", "a.gif"):
        done = CliRunner().invoke(app, ["show", str(table), "--rows", "4", "-o", name])
        assert done.exit_code == 0 and Path(name).stat().st_size > 50, done.output
    done = CliRunner().invoke(app, ["show", str(run.data / "ranking.parquet")])
    assert done.exit_code == 0 and "ranking: 7 rows" in done.stdout
    done = CliRunner().invoke(app, ["show", str(run.data / "ranking.parquet"), "-o", "b.png"])
    assert done.exit_code == 2 and not Path("b.png").exists()


@pytest.mark.parametrize("name", ["report.html", "selection.json"])
def test_show_does_not_advise_to_delete_what_is_no_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    done = CliRunner().invoke(app, ["show", str(tmp_path / name)])
    assert done.exit_code == 2 and "delete" not in done.output


def test_help_keeps_lines_apart_without_showing_how() -> None:
    for command in ([], ["check"], ["generate"], ["show"]):
        assert "\\b" not in CliRunner().invoke(app, [*command, "--help"]).output


COMMANDS = ("check", "taken", "plan", "dag", "solve", "sweep", "generate", "show", "readme")


def test_help_says_all_of_it() -> None:
    """Neither does markup take `[default: ...]` for its own, nor is a command's line in the list cut off."""
    whole = CliRunner().invoke(app, ["--help"]).output
    # Click itself ends the usage, and a prompt stands for any.
    assert "..." not in whole.replace("[ARGS]...", "").replace('--prompt "..."', "")
    assert all(f"  {name} " in whole for name in COMMANDS)
    said = " ".join(CliRunner().invoke(app, ["generate", "--help"]).output.split())
    assert "hub id [default: teacher.base]" in said
    assert said.count("[default: as the adapter was judged, else by the settings]") == 5
    for name in COMMANDS:
        assert max(map(len, CliRunner().invoke(app, [name, "--help"]).output.splitlines())) <= 80
