"""One resumable training loop: every step draws from its own generator, so a resumed run sees the same batches.

A step is the mean of a fixed number of parts, which processes share: two train what one does, in half the time.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from leanmotion.pipeline.processes import ranks
from leanmotion.sprites_training.recipe import Recipe

Loss = Callable[[int, torch.Generator], Tensor]
"""(step, generator of this step and part) -> scalar loss of one part of the batch."""


def train(
    name: str,
    model: nn.Module,
    rate: float,
    loss: Loss,
    *,
    steps: int,
    recipe: Recipe,
    scratch: Path,
) -> nn.Module:
    """Train all parameters; return the averaged weights' model.

    Args:
        name: the run's name: checkpoints lie at `scratch/<name>.pt`, and a finished run is not repeated.
        model: trained in place.
        rate: peak learning rate.
        loss: called once for every part of a step.
        steps: number of optimiser steps.
        recipe: averaging, warm-up, seed and how often to save.
        scratch: an ignored folder.

    Returns:
        A copy of `model` that holds the exponential moving average of its weights, in evaluation mode.
    """
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99), fused=True)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    path = scratch / f"{name}.pt"
    start, group = 0, ranks()
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]

    def save(step: int) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        state = {"model": model.state_dict(), "average": average.state_dict(), "step": step}
        torch.save({**state, "optimiser": optimiser.state_dict()}, part)
        part.replace(path)

    model.train()
    last_save, shown = time.monotonic(), math.nan
    bar = tqdm(range(start, steps), desc=name, initial=start, total=steps, mininterval=5)
    for step in bar:
        optimiser.param_groups[0]["lr"] = rate * rate_scale(step, steps, recipe)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
        value = torch.zeros(())
        for part in range(recipe.parts)[group.index :: group.count]:
            seed = (recipe.seed * 1_000_003 + step) * recipe.parts + part
            share = loss(step, torch.Generator().manual_seed(seed)) / recipe.parts
            share.backward()
            value += share.detach()
        group.add([value, *(parameter.grad for parameter in parameters)])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs, 1 - decay)
        shown = value.item() if math.isnan(shown) else 0.98 * shown + 0.02 * value.item()
        bar.set_postfix(loss=f"{shown:.4f}", refresh=False)
        if group.main and time.monotonic() - last_save > recipe.checkpoint_seconds:
            save(step + 1)
            last_save = time.monotonic()
    if group.main and start < steps:
        save(steps)
    return average


def rate_scale(step: int, steps: int, recipe: Recipe) -> float:
    """Share of the peak rate at a step: up, level, and down at the end, so that a run can be made longer on its way."""
    return min(1.0, (step + 1) / recipe.warmup, (steps - step) / (recipe.decay_share * steps))
