"""Single pictures from captions: the text encoder and the UNet, trained together on cached latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from leanmotion.sprites.recipe import Recipe
from leanmotion.sprites.training import train


def new_scheduler(recipe: Recipe) -> DDIMScheduler:
    """AnimateDiff's noise schedule; few steps start from the last timestep and end in the picture itself."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        steps_offset=1,
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type=recipe.prediction_type,
    )


def new_unet(recipe: Recipe) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's topology at small width."""
    return UNet2DConditionModel(
        sample_size=recipe.size // 8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=recipe.unet_channels,
        layers_per_block=2,
        norm_num_groups=recipe.unet_groups,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=recipe.unet_heads,
    )


class CaptionedUNet(nn.Module):
    """The two networks that learn from single pictures, as one module."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet


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


def train_images(
    latents: Tensor,
    captions: Sequence[str],
    tokenizer: CLIPTokenizer,
    model: CaptionedUNet,
    recipe: Recipe,
    scratch: Path,
) -> CaptionedUNet:
    """Train on single frames.

    Args:
        latents: scaled [clips, frames, 4, h, w].
        captions: one per clip.
        tokenizer: of the captions.
        model: trained in place.
        recipe: steps, batch, rates.
        scratch: checkpoints.

    Returns:
        The averaged model.
    """
    scheduler = new_scheduler(recipe)
    words = {caption: i for i, caption in enumerate([*dict.fromkeys(captions), ""])}
    ids = token_ids(tokenizer, list(words))
    caption_of = torch.tensor([words[caption] for caption in captions])
    empty = words[""]

    def loss(step: int, generator: torch.Generator) -> Tensor:
        n = recipe.image_batch
        clip = torch.randint(len(latents), (n,), generator=generator)
        frame = torch.randint(latents.shape[1], (n,), generator=generator)
        times = sample_times(n, generator)
        noisy, target = noised(scheduler, latents[clip, frame], times, generator)
        which = caption_of[clip].clone()
        which[torch.rand(n, generator=generator) < recipe.caption_dropout] = empty
        # There are fewer captions than pictures: each is encoded once.
        hidden = model.text_encoder(ids).last_hidden_state[which]
        predicted = model.unet(noisy.contiguous(memory_format=torch.channels_last), times, hidden, return_dict=False)[0]
        return F.mse_loss(predicted, target)

    unet: Any = model.unet  # its annotation of `to` lacks memory formats
    unet.to(memory_format=torch.channels_last)
    groups = [{"params": list(model.parameters()), "lr": recipe.image_rate}]
    average = train("images", model, groups, loss, steps=recipe.image_steps, recipe=recipe, scratch=scratch)
    assert isinstance(average, CaptionedUNet)
    return average
