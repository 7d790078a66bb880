"""A distillation of a micro UNet on clips of noise, in memory: seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from models import micro_unet
from torch import Tensor

from leanmotion.distillation.distillation_settings import DistillationSettings, LossWeights
from leanmotion.distillation.losses import Batch, Losses, comparison
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.schedule import LossRow
from leanmotion.distillation.training import distil

SETTINGS = DistillationSettings(
    steps=6,
    batch=2,
    learning_rate=1e-2,
    warmup=2,
    decay="cosine",
    clip_norm=1.0,
    ema=0.9,
    task_weight=0.5,
    output_weight=1.0,
    feature_weight=1.0,
    checkpoint_every=2,
    seed=3,
)


class MemoryClips:
    """Five clips of noise, in their own order; counts what is asked for."""

    digest = "memory"

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.sizes: list[int] = []
        self.latents = torch.randn((5, 4, 2, 4, 4), generator=torch.Generator().manual_seed(0))

    def order(self, seed: int, start: int, count: int) -> list[int]:
        return [(seed + position) % 5 for position in range(start, start + count)]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        self.asked += indices
        self.sizes.append(len(indices))
        return self.latents[list(indices)], [f"caption {i}" for i in indices]


def encode(captions: list[str]) -> Tensor:
    return torch.stack([torch.full((3, 8), len(c) + ord((c or " ")[-1]) / 100) for c in captions])


def scheduler() -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(beta_schedule="linear")


def drawing(steps: int = 3, guidance: float = 1.0) -> Drawing:
    return Drawing(scheduler(), steps, guidance, "nothing")


def train(folder: Path, settings: DistillationSettings = SETTINGS, **options: Any) -> tuple[Any, list[LossRow]]:
    student = options.pop("student", None) or micro_unet(1)
    options = {"encode": encode, "checkpoint_dir": folder, "drawing": drawing(), **options}
    clips = options.pop("clips", None) or MemoryClips()
    rows = distil(student, options.pop("teacher", None) or micro_unet(0), scheduler(), clips, settings, **options)
    return student, rows


def losses(student: Any, teacher: Any, batch: Batch, weights: LossWeights) -> Losses:
    """All terms on one batch."""
    with comparison(student, teacher, weights) as compare:
        return compare(batch)


def same(a: Any, b: Any) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


class Killed(BaseException):
    pass


def stop_after(step: int) -> Any:
    def progress(row: LossRow) -> None:
        if row["step"] == step:
            raise Killed

    return progress
