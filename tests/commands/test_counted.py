"""A whole run counted: by hand on a tiny teacher, and the evening's preset on the real model's shapes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BLOCKS, tiny_settings

from leanmotion.commands.counted import Calls, calls_of, flops, lines, training_gib
from leanmotion.commands.estimate import clips_to_draw, training_clips
from leanmotion.cost.macs import frame_macs, macs_after, unet_macs
from leanmotion.model.teacher import load_pipeline
from leanmotion.model.units import list_units
from leanmotion.pipeline.settings import load_settings

PRESETS = Path(__file__).parents[2] / "presets"


def test_counts_by_hand(teacher_folder: Any) -> None:
    settings = tiny_settings(teacher_folder(levels=2, layers=1), sampling={"guidance": 2.0, "steps": 4})
    pipeline = load_pipeline(settings.teacher)
    calls = calls_of(pipeline, settings)
    found = {stage: value / 2 for stage, value in flops(settings, calls).items()}
    clip = 4 * 2 * calls.macs["total"] + 3 * calls.frame
    for stage, count in clips_to_draw(settings).items():
        assert found[stage] == count * clip
    assert found["distill"] == training_clips(settings) * clip
    units = list_units(pipeline.unet)
    partial = sum(calls.after[u.block] - calls.macs[u.id] for u in units)
    walked = (4 + settings.influence.steps) * calls.macs["total"]
    assert found["influence"] == 2 * settings.influence.prompts * (walked + settings.influence.steps * partial)
    # A decoder of three levels: most of it on the largest maps, and four times as much for twice the sides.
    assert frame_macs(pipeline.vae, height=16, width=16) == pytest.approx(4 * calls.frame, rel=0.1)
    assert set(calls.after) == set(BLOCKS)


@pytest.fixture(scope="module")
def real() -> Calls:
    """SD 1.5 with the v2 adapter on meta tensors, at 256 x 256 x 16."""
    from diffusers import AutoencoderKL, UNetMotionModel

    with torch.device("meta"):
        unet = UNetMotionModel(sample_size=64, cross_attention_dim=768)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore
            up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore
            block_out_channels=(128, 256, 512, 512),  # pyright: ignore
            layers_per_block=2, latent_channels=4,
        )  # fmt: skip
    size: dict[str, Any] = {"frames": 16, "height": 32, "width": 32}
    weights = sum(p.numel() for p in unet.parameters())
    return Calls(
        list_units(unet), unet_macs(unet, **size), macs_after(unet, **size), frame_macs(vae, height=32, width=32),
        weights, 25,
    )  # fmt: skip


def test_the_evening_fits_an_evening_and_a_card(real: Calls) -> None:
    settings = load_settings(PRESETS / "animatediff-v1-5-2-evening.yaml")
    assert settings.ranking.criterion == "influence" and len(settings.rounds) == 2
    hours = sum(flops(settings, real).values()) / 60e12 / 3600
    assert 2 < hours <= 8
    assert training_gib(settings, real, recomputed=False) * 1.0737 <= 20, "GB"
    text = "\n".join(lines(settings, real, 60.0))
    assert "EFLOP; at 60 TFLOP/s achieved" in text and "influence" in text and "GiB" in text


def test_memory_is_what_was_measured_at_full_size(real: Calls) -> None:
    """GiB at one and two clips a micro-batch, 512 x 512 x 16: 31 and 51; recomputed 12.5 and 16.6."""
    whole = load_settings(PRESETS / "animatediff-v1-5-2.yaml")
    for clips, kept, again in ((1, 31, 12.5), (2, 51, 16.6)):
        how = whole.distillation.model_copy(update={"batch": clips, "accumulate": 1})
        settings = whole.model_copy(update={"distillation": how})
        assert training_gib(settings, real, recomputed=False) == pytest.approx(kept, rel=0.03)
        assert training_gib(settings, real, recomputed=True) == pytest.approx(again, rel=0.03)


def test_the_command_counts(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from leanmotion.commands.cli import app

    monkeypatch.chdir(embedded)
    done = CliRunner().invoke(app, ["check", "--tflops", "0.1"])
    assert done.exit_code == 0, done.output
    assert "at 0.1 TFLOP/s achieved" in done.output and "memory while distilling" in done.output
