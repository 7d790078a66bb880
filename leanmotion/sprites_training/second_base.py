"""A second base of the embedded teacher's family: its picture network, trained on to draw another look.

As people's bases are made from Stable Diffusion's: other weights of the same UNet, by training on single pictures, with
the text encoder and the autoencoder left as they are. No motion module takes part, and none sees the new look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from leanmotion.sprites.renderer import render
from leanmotion.sprites.world import training_captions
from leanmotion.sprites_training.autoencoder import encode
from leanmotion.sprites_training.joint import noised, sample_times, token_ids, weakened
from leanmotion.sprites_training.loop import train
from leanmotion.sprites_training.networks import new_scheduler
from leanmotion.sprites_training.recipe import Recipe

FIRST_SEED = 5_000_000
"""Of the pictures, away from those of any other training."""


@dataclass(frozen=True)
class Look:
    """Paler colours, an evening ground, bright outlines; RGB in [0, 1]."""

    saturation: float = 0.6
    ground: tuple[float, float, float] = (0.10, 0.08, 0.18)
    outline: tuple[float, float, float] = (0.95, 0.95, 0.90)


@dataclass(frozen=True)
class SecondBase:
    """How it is trained: `batch` pictures in each of the recipe's parts of a step."""

    look: Look = Look()
    steps: int = 600
    batch: int = 16
    rate: float = 1e-3
    clips_per_caption: int = 8


def repainted(clips: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """Rendered clips in another look: to train on, never for what a model has drawn.

    Outlines are where brightness differs between a pixel and its four neighbours.

    Args:
        clips: [..., height, width, 3].
        look: of the result.
    """
    rgb = clips.astype(np.float32) / 255
    grey = rgb.mean(-1, keepdims=True)
    toned = look.saturation * rgb + (1 - look.saturation) * grey
    ground = np.asarray(look.ground, np.float32)
    picture = ground + (1 - ground) * toned
    bright = rgb.max(-1)
    margin = np.pad(bright, [(0, 0)] * (bright.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    around = np.stack(
        [bright, margin[..., 2:, 1:-1], margin[..., :-2, 1:-1], margin[..., 1:-1, 2:], margin[..., 1:-1, :-2]]
    )
    edge = (around.max(0) - around.min(0))[..., None]
    picture += edge * (np.asarray(look.outline, np.float32) - picture)
    return np.round(picture.clip(0, 1) * 255).astype(np.uint8)


def train_second_base(first: Path, out: Path, recipe: Recipe, how: SecondBase, scratch: Path) -> None:
    """Write the folder of a second base, trained from the first one; a killed training goes on from `scratch`.

    Args:
        first: folder of the embedded base.
        out: folder to write.
        recipe: frames, size, averaging, warm-up, checkpoints.
        how: look, steps, rate.
        scratch: checkpoints; of these settings alone.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(first, safety_checker=None, requires_safety_checker=False)
    captions = [caption for caption in training_captions() for _ in range(how.clips_per_caption)]
    seeds = [FIRST_SEED + i for i in range(len(captions))]
    clips = repainted(render(captions, seeds, frames=recipe.frames, size=recipe.size), how.look)
    latents = encode(pipeline.vae, torch.from_numpy(clips).permute(0, 1, 4, 2, 3).contiguous())
    unet = pipeline.unet.requires_grad_(True)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        clip = torch.randint(len(latents), (how.batch,), generator=generator)
        frame = torch.randint(latents.shape[1], (how.batch,), generator=generator)
        times = sample_times(how.batch, generator)
        noisy, target = noised(new_scheduler(recipe), latents[clip, frame], times, generator)
        said = weakened([captions[int(i)] for i in clip], recipe, generator)
        with torch.no_grad():
            hidden = pipeline.text_encoder(token_ids(pipeline.tokenizer, said)).last_hidden_state
        return F.mse_loss(unet(noisy, times, hidden, return_dict=False)[0], target)

    trained = train("second-base", unet, how.rate, loss, steps=how.steps, recipe=recipe, scratch=scratch)
    assert isinstance(trained, UNet2DConditionModel)
    pipeline.unet = trained
    pipeline.save_pretrained(out)
