"""Pictures and clips from captions: text encoder, picture network and motion modules learn together.

AnimateDiff trains motion modules on a frozen picture network. At this size that leaves most of them idle: they never
see the caption, and a picture network that has learnt alone does not listen to what the deep ones say. So clips train
the picture network too. Every fourth step draws single pictures without any motion module, so that the base stays a
picture network of its own.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from leanmotion.model.removal import without_units
from leanmotion.model.units import motion_slots
from leanmotion.sprites.world import partial_caption
from leanmotion.sprites_training.loop import train
from leanmotion.sprites_training.networks import CaptionedVideo, new_scheduler
from leanmotion.sprites_training.recipe import Recipe


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """int64 [n, text length], padded as diffusers' pipelines pad."""
    return tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids


def noised(
    scheduler: DDIMScheduler, latents: Tensor, times: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noisy latents and the v target; `times` int64 [n], one per leading entry.

    v = sqrt(a) noise - sqrt(1 - a) latents (Salimans and Ho 2022, "Progressive distillation").
    """
    noise = torch.randn(latents.shape, generator=generator)
    a = scheduler.alphas_cumprod[times].view(-1, *[1] * (latents.dim() - 1))
    return a.sqrt() * latents + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * latents


def sample_times(n: int, generator: torch.Generator) -> Tensor:
    """int64 [n] in [0, 1000): half of them uniform, half towards noise, where the layout is decided."""
    u = torch.rand(n, generator=generator)
    late = torch.rand(n, generator=generator) < 0.5
    return (torch.where(late, u.sqrt(), u) * 1000).long().clamp(max=999)


def weakened(captions: Sequence[str], recipe: Recipe, generator: torch.Generator) -> list[str]:
    """Captions of which some say less: without colour, shape or motion, or nothing.

    A network that sees every part of a caption alone learns what each part means, and so draws combinations that it
    has never seen.
    """
    draws = torch.rand(len(captions), 4, generator=generator)
    said: list[str] = []
    for caption, (nothing, *parts) in zip(captions, draws.tolist(), strict=True):
        keep = [part >= recipe.word_dropout for part in parts]
        said.append("" if nothing < recipe.caption_dropout else partial_caption(caption, *keep))
    return said


def draws_pictures(step: int, recipe: Recipe) -> bool:
    """Whether this step draws single pictures, without any motion module."""
    return step < recipe.image_steps or step % recipe.image_every == 0


def not_yet_open(step: int, levels: Mapping[str, int], recipe: Recipe) -> list[str]:
    """The motion blocks that take no part in this step of the first run: small maps go first."""
    return [block for block, level in levels.items() if step < recipe.motion_from[level] * recipe.joint_steps]


def closed_at_random(step: int, levels: Mapping[str, int], recipe: Recipe) -> list[str]:
    """The motion blocks that take no part in this step of the second run: those of no, one or more levels."""
    # By the step alone, for all parts of a batch: so that processes which share a step take as long.
    draw = random.Random(f"{recipe.seed}/{step}").random()
    shut = bisect(list(accumulate(recipe.deepen_closed)), draw)
    return [block for block, level in levels.items() if level < shut]


def train_joint(
    latents: Tensor,
    captions: Sequence[str],
    tokenizer: CLIPTokenizer,
    model: CaptionedVideo,
    recipe: Recipe,
    scratch: Path,
) -> CaptionedVideo:
    """Train on single frames and on whole clips, small maps first; then go on with large ones closed at random.

    Args:
        latents: scaled [clips, frames, 4, h, w].
        captions: one per clip.
        tokenizer: of the captions.
        model: trained in place.
        recipe: steps, batches, rates.
        scratch: checkpoints.

    Returns:
        The averaged model.
    """
    loss = partial(batch_loss, latents, captions, tokenizer, recipe)
    first = train(
        "joint",
        model,
        recipe.rate,
        partial(loss, model, not_yet_open),
        steps=recipe.joint_steps,
        recipe=recipe,
        scratch=scratch,
    )
    assert isinstance(first, CaptionedVideo)
    return deepened(latents, captions, tokenizer, first, recipe, scratch)


def deepened(
    latents: Tensor,
    captions: Sequence[str],
    tokenizer: CLIPTokenizer,
    model: CaptionedVideo,
    recipe: Recipe,
    scratch: Path,
) -> CaptionedVideo:
    """The second of `train_joint`'s runs, from a model that the first one left. Arguments and result as there."""
    model.requires_grad_(True)
    recipe = replace(recipe, image_steps=0, decay_share=recipe.deepen_decay_share)
    second = train(
        "deepen",
        model,
        recipe.deepen_rate,
        partial(batch_loss, latents, captions, tokenizer, recipe, model, closed_at_random),
        steps=recipe.deepen_steps,
        recipe=recipe,
        scratch=scratch,
    )
    assert isinstance(second, CaptionedVideo)
    return second


def batch_loss(
    latents: Tensor,
    captions: Sequence[str],
    tokenizer: CLIPTokenizer,
    recipe: Recipe,
    model: CaptionedVideo,
    closed: Callable[[int, Mapping[str, int], Recipe], list[str]],
    step: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of one part of a step's batch: pictures without motion modules, or clips.

    Args:
        latents: scaled [clips, frames, 4, h, w].
        captions: one per clip.
        tokenizer: of the captions.
        recipe: batches, dropped words.
        model: predicts.
        closed: (step, level by block, recipe) -> motion blocks that take no part in a step of clips.
        step: number of the step.
        generator: of this step and part.
    """
    pictures = draws_pictures(step, recipe)
    n = recipe.image_batch if pictures else recipe.motion_batch
    clip = torch.randint(len(latents), (n,), generator=generator)
    x = latents[clip]
    if pictures:
        x = x[torch.arange(n), torch.randint(latents.shape[1], (n,), generator=generator)].unsqueeze(1)
    times = sample_times(n, generator)
    noisy, target = noised(new_scheduler(recipe), x, times, generator)
    said = weakened([captions[int(i)] for i in clip], recipe, generator)
    hidden = model.text_encoder(token_ids(tokenizer, said)).last_hidden_state
    levels = {slot.block: slot.depth for slot in motion_slots(model.unet)}
    with without_units(model.unet, list(levels) if pictures else closed(step, levels, recipe)):
        hidden = hidden.repeat_interleave(x.shape[1], 0)
        predicted = model.unet(noisy.transpose(1, 2), times, hidden, return_dict=False)[0]
    return F.mse_loss(predicted, target.transpose(1, 2))
