"""Apple's GPUs: what draws and reads runs on a device that has no float64, and gives the numbers of the CPU."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_mps import OnMps, pretended_mps
from tiny import tiny_settings

from leanmotion.cost.timing import device_clock
from leanmotion.errors import LeanmotionError
from leanmotion.features.extractors import load_extractor
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline import processes, stage
from leanmotion.probing.similarity import measure_similarity


def test_the_pretended_device_refuses_float64_and_keeps_what_is_there() -> None:
    with pretended_mps():
        there = torch.arange(3.0).to("mps")
        assert (
            there.device.type == "mps"
            and isinstance(there + 1, OnMps)
            and torch.zeros(2, device="mps").is_floating_point()
        )
        assert there.cpu().double().tolist() == [0, 1, 2] and there.cpu().device.type == "cpu"
        for wide in (lambda: there.double(), lambda: there.sum(dtype=torch.float64), lambda: there.to(torch.float64)):
            with pytest.raises(TypeError, match="float64"):
                wide()


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANMOTION_DEVICE", "mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "lcm"])
def test_clips_are_drawn_as_on_the_cpu(teacher_folder: Any, scheduler: str) -> None:
    settings = tiny_settings(teacher_folder(levels=2, layers=1), sampling={"scheduler": scheduler})
    asked = [Request("a red ring", "", 1), Request("a blue ring", "", 2)]
    pipeline = load_pipeline(settings.teacher)
    expected = Sampler(pipeline, settings.sampling)(asked)
    with pretended_mps():
        sampler = Sampler(pipeline, settings.sampling, "mps")
        drawn: list[np.ndarray] = []
        rows = measure_similarity(pipeline.unet, lambda: drawn.append(sampler(asked)))
    assert np.array_equal(drawn[0], expected)
    plain = measure_similarity(pipeline.unet, lambda: Sampler(pipeline, settings.sampling)(asked))
    assert rows == plain


def test_clips_are_read_as_on_the_cpu(embedded: Path) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (2, 8, 48, 48, 3), dtype=np.uint8)
    named = {"path": str(embedded / "data/extractor"), "sha256": None, "batch": 2}
    expected = load_extractor("sprites", **named).features(clips)
    with pretended_mps():
        assert np.array_equal(load_extractor("sprites", **named, device="mps").features(clips), expected)


def test_calls_are_timed_after_the_device_is_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks inside a call as well: its events tell nothing apart that was sent together."""
    waited: list[float] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(time.perf_counter()))
    clock = device_clock("mps")
    clock.wait()
    first, second = clock.mark(), clock.mark()
    assert clock.name == "wall" and len(waited) == 3
    assert waited[1] <= first <= waited[2] <= second and clock.between(first, second) == second - first


@pytest.mark.usefixtures("apple")
def test_it_is_taken_where_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("mps", "mps:0"):
        monkeypatch.setenv("LEANMOTION_DEVICE", named)
        assert processes.device() == "mps" and processes.devices() == ["mps"]
    monkeypatch.delenv("LEANMOTION_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes.device() == "cpu"


@pytest.mark.usefixtures("apple")
def test_a_stage_that_sums_in_float64_runs_on_the_cpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["stages/distill.py"])
    seen: list[str] = []
    stage.guarded(lambda: seen.append(processes.device()))()
    stage.guarded(lambda: seen.append(processes.device()), float64=True)()
    assert seen == ["mps", "cpu"]
    assert capsys.readouterr().err == "distill: on the CPU, as mps has no float64\n"


@pytest.mark.parametrize("named", ["gpu", "mps", "cuda", "cuda:1", "mps2"])
def test_a_device_that_is_not_here_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    monkeypatch.setenv("LEANMOTION_DEVICE", named)
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for ask in (processes.device, processes.devices):
        with pytest.raises(LeanmotionError, match=f"LEANMOTION_DEVICE is '{named}'"):
            ask()
    with pytest.raises(SystemExit):
        stage.guarded(processes.device)()
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "unset it" in line
