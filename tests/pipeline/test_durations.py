"""What a stage took is on record for `leanmotion plan`, if DVC ran it and it succeeded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline import durations
from leanmotion.pipeline.stage import guarded


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DVC_STAGE", "ablate@mid_0")
    return tmp_path


def test_the_longest_of_the_last_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert durations.longest("ablate@mid_0") is None
    clock = iter([0.0, 90.0, *[0.0, 2.0] * durations.KEPT])
    monkeypatch.setattr(durations, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stage = guarded(lambda: None)
    for _ in range(durations.KEPT):
        stage()
        assert durations.longest("ablate@mid_0") == 90.0
    stage()
    assert durations.longest("ablate@mid_0") == 2.0 and durations.longest("ablate@up_0_1") is None
    # Another project of the same scratch folder is another matter.
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    assert durations.longest("ablate@mid_0") is None


@pytest.mark.parametrize("end", [LeanmotionError("no"), SystemExit(2), KeyboardInterrupt()])
def test_what_failed_has_no_time(end: BaseException) -> None:
    def fail() -> Any:
        raise end

    with pytest.raises(SystemExit):
        guarded(fail)()
    assert durations.longest("ablate@mid_0") is None


def test_ranks_that_all_succeeded_end_with_a_code_of_0() -> None:
    def spread() -> Any:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        guarded(spread)()
    assert durations.longest("ablate@mid_0") is not None


def test_outside_of_dvc_and_on_a_damaged_record(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded(lambda: None)()
    (record,) = (here / "scratch/times").iterdir()
    for damage in ("{", "3", '["x"]'):
        record.write_text(damage)
        assert durations.longest("ablate@mid_0") is None
    monkeypatch.delenv("DVC_STAGE")
    before = record.read_text()
    guarded(lambda: None)()
    assert record.read_text() == before
