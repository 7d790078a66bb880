"""Pictures <-> latents: a narrow AutoencoderKL, and clips cached as latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from leanmotion.sprites.renderer import render
from leanmotion.sprites_training.loop import train
from leanmotion.sprites_training.recipe import Recipe


def new_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder of factor 2 per level but the last."""
    levels = len(recipe.vae_channels)
    # diffusers annotates these tuples as of length one.
    channels: Any = recipe.vae_channels
    down: Any = ("DownEncoderBlock2D",) * levels
    up: Any = ("UpDecoderBlock2D",) * levels
    return AutoencoderKL(
        down_block_types=down,
        up_block_types=up,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=recipe.vae_groups,
        sample_size=recipe.size,
        mid_block_add_attention=False,
    )


def low_precision() -> torch.autocast:
    """bfloat16 where the processor has matrix units for it (twice as fast); elsewhere it is emulated, and slower."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(torch.cpu.get_capabilities().get("amx_bf16")))


def rendered_clips(captions: list[str], per_caption: int, first_seed: int, recipe: Recipe) -> tuple[Tensor, list[str]]:
    """`per_caption` clips of each caption: uint8 [n, frames, 3, size, size], and the caption of each."""
    repeated = [caption for caption in captions for _ in range(per_caption)]
    seeds = [first_seed + i for i in range(len(repeated))]
    clips = torch.from_numpy(render(repeated, seeds, frames=recipe.frames, size=recipe.size))
    return clips.permute(0, 1, 4, 2, 3).contiguous(), repeated


def to_unit(frames: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return frames.float() / 127.5 - 1


def train_autoencoder(captions: list[str], recipe: Recipe, scratch: Path) -> AutoencoderKL:
    """Train on single frames; its latents have zero mean and unit variance in every channel."""
    # Seeded here and restored: construction in diffusers takes no generator.
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(recipe.seed)
        model = new_autoencoder(recipe)
    clips, _ = rendered_clips(captions, recipe.vae_clips_per_caption, 0, recipe)
    pictures = clips.flatten(0, 1)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pictures), (recipe.vae_batch,), generator=generator)
        x = to_unit(pictures[chosen])
        with low_precision():
            posterior = model.encode(x, return_dict=False)[0]
            noise = torch.randn(posterior.mean.shape, generator=generator)
            z: Any = posterior.mean + posterior.std * noise
            y = model.decode(z, return_dict=False)[0].float()
        # The ground is most of the picture and easy: what is drawn on it counts more.
        weight = 1 + recipe.foreground_weight * (x.amax(1, keepdim=True) > -0.7)
        error = y - x
        kl = 0.5 * (posterior.mean.pow(2) + posterior.var - 1 - posterior.logvar).float().mean()
        return (weight * (error.abs() + error.pow(2))).mean() + recipe.vae_kl * kl

    average = train("autoencoder", model, recipe.vae_rate, loss, steps=recipe.vae_steps, recipe=recipe, scratch=scratch)
    assert isinstance(average, AutoencoderKL)
    average.register_to_config(scaling_factor=1.0)
    latents = encode(average, clips[:: max(1, len(clips) // 512)])
    standardise(average, latents.mean((0, 1, 3, 4)), latents.std((0, 1, 3, 4)))
    return average


@torch.no_grad()
def standardise(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Give every latent channel zero mean and unit variance, exactly, by its 1 x 1 convolutions before and after.

    Left as they are, channels differ fivefold in size, and noise drowns the small ones, which hold the outlines, first.

    Args:
        vae: changed in place; what it reconstructs stays as it was.
        mean: [4], of its latents by channel.
        std: [4], likewise.
    """
    into, out = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out is not None and into.bias is not None and out.bias is not None
    channels = len(mean)
    into.weight[:channels] /= std.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()  # of variances
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)


@torch.no_grad()
def encode(vae: AutoencoderKL, clips: Tensor) -> Tensor:
    """uint8 [n, f, 3, h, w] -> posterior means times the scaling factor, float32 [n, f, 4, h/factor, w/factor]."""
    parts: list[Tensor] = []
    for part in clips.flatten(0, 1).split(256):
        with low_precision():
            parts.append(vae.encode(to_unit(part), return_dict=False)[0].mean.float())
    return (torch.cat(parts) * vae.config["scaling_factor"]).unflatten(0, clips.shape[:2])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents [n, f, 4, h/factor, w/factor] -> float32 [n, f, 3, h, w] in [-1, 1]."""
    parts: list[Tensor] = []
    for part in (latents.flatten(0, 1) / vae.config["scaling_factor"]).split(128):
        with low_precision():
            parts.append(vae.decode(part, return_dict=False)[0].float().clamp(-1, 1))
    return torch.cat(parts).unflatten(0, latents.shape[:2])
