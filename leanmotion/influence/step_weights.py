"""What a change of the model's output at one sampler step does to the final latent, by the sampler's own coefficients.

A sampler's step is linear in the latents and in the model's output: `z' = a z + b m` (and noise, which no change
moves). A change of `m` at step k enters by `b_k`, and every later step carries it on by `a_j + b_j r_j`, where `r_j` is
what the model answers to a change of its input. `docs/method.md` derives both.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from leanmotion.errors import LeanmotionError

_SMALL = 1e-3
"""The change that is pushed through: small, so that schedulers that clip do not clip it."""

_CONSISTENT = {"LCMScheduler", "TCDScheduler"}
"""Schedulers of consistency models."""


def answer(prediction: str, signal: float, variance: float = 1.0, *, consistent: bool = False) -> float:
    """`dm / dz` of an ideal model, where latents are independent normal numbers.

    With `z = alpha x + sigma e`, `alpha^2 + sigma^2 = 1` and `x` of mean 0 and variance `s2`, an ideal denoiser says
    `x = c z` with `c = alpha s2 / q`, `q = alpha^2 s2 + sigma^2` (the posterior mean); a consistency model (Song et al.
    2023, arXiv 2303.01469) says the end of the trajectory through `z`, `c = sqrt(s2 / q)`. Then `e = (z - alpha x) /
    sigma` and `v = alpha e - sigma x`. A VAE's scaling factor makes `s2` about 1 (Rombach et al. 2022).

    Args:
        prediction: the scheduler's `prediction_type`: epsilon, v_prediction or sample.
        signal: `alpha^2`, as `alphas_cumprod` has it.
        variance: `s2`.
        consistent: of a consistency model.

    Raises:
        LeanmotionError: another prediction.
    """
    alpha, sigma = math.sqrt(signal), math.sqrt(1 - signal)
    total = signal * variance + 1 - signal
    clean = math.sqrt(variance / total) if consistent else alpha * variance / total
    found = {
        "epsilon": (1 - alpha * clean) / sigma,
        "sample": clean,
        "v_prediction": (alpha - clean) / sigma,
    }
    if prediction not in found:
        raise LeanmotionError(f"the scheduler predicts {prediction!r}: step weights know {', '.join(found)}")
    return found[prediction]


def final_gains(scheduler: Any, steps: int, variance: float = 1.0) -> list[float]:
    """Size of the final latent's change per unit of change of the model's output, for each call of the model.

    A change at each step in turn is pushed through the scheduler itself, later model outputs answering as an ideal
    model would: a denoiser, or with a scheduler of consistency models one of these. So it holds for any scheduler that
    is linear in latents and output, with memory of earlier steps or without.

    Args:
        scheduler: of diffusers; it is copied.
        steps: of the sampler.
        variance: of latents.

    Returns:
        One number a timestep of the scheduler, in the order of sampling.
    """
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    known = scheduler.alphas_cumprod.double().numpy()
    signals = np.interp(timesteps.double().numpy(), np.arange(len(known)), known)
    # Row k is changed at step k, the last one never; all have the same noise where the scheduler adds some.
    rows = len(timesteps) + 1
    latents = torch.zeros(rows, 1, 1, 1, 1, dtype=torch.float64)
    extra = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra = {"generator": [torch.Generator().manual_seed(0) for _ in range(rows)]}
    kind, consistent = scheduler.config.prediction_type, type(scheduler).__name__ in _CONSISTENT
    for k, timestep in enumerate(timesteps):
        shown = scheduler.scale_model_input(latents, timestep)
        output = answer(kind, float(signals[k]), variance, consistent=consistent) * shown
        output[k] += _SMALL
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0].double()
    flat = latents.flatten()
    return ((flat[:-1] - flat[-1]).abs() / _SMALL).tolist()


def spread_over(steps: int, count: int) -> list[int]:
    """`count` of `steps` steps, each in the middle of an equal run of them.

    >>> spread_over(10, 5), spread_over(10, 3), spread_over(4, 9)
    ([1, 3, 5, 7, 9], [1, 5, 8], [0, 1, 2, 3])
    """
    count = min(count, steps)
    return [int((i + 0.5) * steps / count) for i in range(count)]


def variances_of(changes: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Step -> variance of final latents along the changes of that step, larger changes counting for more.

    Changes lie where clips differ much: their direction's variance is many times that of a latent's number.

    Args:
        changes: rows of `output_changes`, with `along`.
    """
    sums: dict[int, list[float]] = {}
    for row in changes:
        if row["unit"] == row["other"] and row["along"]:
            total = sums.setdefault(row["step"], [0.0, 0.0])
            total[0] += sum(row["along"])
            # Only parts of three clips and more have it.
            total[1] += sum(row["values"]) * len(row["along"]) / len(row["values"])
    return {step: along / change if change > 0 else 1.0 for step, (along, change) in sorted(sums.items())}


def step_weights(scheduler: Any, steps: int, variances: Mapping[int, float]) -> dict[int, float]:
    """Weight of each chosen step: squared gains of all steps that are nearer to it than to another chosen one.

    The squared change of the final latent is then about `sum_k weight_k E|D_k|^2`, the changes of different steps
    counting as independent.

    Args:
        scheduler: of diffusers.
        steps: of the sampler.
        variances: chosen step -> variance along its changes.
    """
    gains = {step: final_gains(scheduler, steps, variance) for step, variance in variances.items()}
    calls = len(next(iter(gains.values())))
    weights = dict.fromkeys(gains, 0.0)
    for step in range(calls):
        nearest = min(gains, key=lambda chosen: abs(chosen - step))
        weights[nearest] += gains[nearest][step] ** 2
    return weights


def calls_of(scheduler: Any, steps: int) -> int:
    """How often a sampler of so many steps calls the model: with some schedulers once more."""
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)
