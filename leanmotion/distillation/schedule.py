"""What a training step does as a function of its number: learning rate, average, randomness; and when to stop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.distillation import losses
from leanmotion.distillation.distillation_settings import DistillationSettings

LossRow = dict[str, float | int | None]

TERMS: tuple[str, ...] = (*losses.TERMS, "endpoint")
"""Terms of all objectives."""

COLUMNS: tuple[str, ...] = (
    *("step", "total", *TERMS, *(f"{term}_weighted" for term in TERMS)),
    *("learning_rate", "gradient_norm"),
)
"""Columns of a loss row: a term's own value, and times its weight; None where it was not computed."""

_WINDOW, _ENOUGH = 100, 20  # steps of the running median, and how many it needs


def learning_rate(settings: DistillationSettings, step: int) -> float:
    """Linear rise over `warmup` steps, then constant, or half a cosine that would reach 0 at `steps`."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / (settings.warmup + 1)
    if settings.decay == "constant":
        return settings.learning_rate
    part = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * part))


def ema_decay(ema: float, step: int) -> float:
    """Decay of the moving average after step `step`: lower at first, when the average still holds the start."""
    return min(ema, (1 + step) / (10 + step))


def diverged(rows: Sequence[LossRow], explode: float) -> str:
    """What is wrong with the last row, in words, or an empty string.

    A term that trains is not finite, or the total is above `explode` times its median over the 100 steps before (from
    the 20th step on); then the term that grew most is named.
    """
    *before, row = rows
    names = [name for name in TERMS if row[f"{name}_weighted"] is not None]
    for name in [*names, "total", "gradient_norm"]:
        # A gradient norm of None: float16 overflowed, and the scaler skipped the step and lowers its scale.
        if (value := row[name]) is not None and not math.isfinite(value):
            return f"{name} is {value}"
    window = before[-_WINDOW:]
    if len(window) >= _ENOUGH and all(r["gradient_norm"] is None for r in rows[-_ENOUGH:]):
        return f"the gradient overflows float16 {_ENOUGH} steps on end"
    if len(window) < _ENOUGH:
        return ""

    def growth(name: str) -> float:
        usual = median(r[name] or 0.0 for r in window)
        return (row[name] or 0.0) / max(usual, 1e-30)

    if growth("total") <= explode:
        return ""
    worst = max(names, key=growth)
    return f"{worst} is {growth(worst):.3g} times its running median"


def draw(
    seed: int, position: int, shape: Sequence[int], train_timesteps: int
) -> tuple[int, float, Float[Tensor, "..."]]:
    """Timestep, a uniform number and noise of the clip at one position of the sequence, on the CPU."""
    generator = torch.Generator().manual_seed(_number(f"noise|{seed}|{position}"))
    timestep = int(torch.randint(train_timesteps, (), generator=generator))
    return timestep, float(torch.rand((), generator=generator)), torch.randn(shape, generator=generator)


def noise_of_clip(seed: int, position: int, shape: Sequence[int]) -> Float[Tensor, "..."]:
    """Noise of a clip that is drawn as a whole, on the CPU: of other seeds than any that `draw` uses."""
    generator = torch.Generator().manual_seed(_number(f"clip|{seed}|{position}"))
    return torch.randn(shape, generator=generator)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
