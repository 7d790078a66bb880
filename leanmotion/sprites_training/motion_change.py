"""A small change of the motion modules, as a motion LoRA makes: trained on the whole, added to its students as well.

W + B A on every attention layer of the motion modules, with B zero at first (Hu et al. 2021, "LoRA: Low-Rank
Adaptation of Large Language Models", section 4.1). Trained on clips that go more slowly than the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from leanmotion.sprites.renderer import render
from leanmotion.sprites.world import training_captions
from leanmotion.sprites_training.autoencoder import encode
from leanmotion.sprites_training.joint import noised, sample_times, token_ids, weakened
from leanmotion.sprites_training.loop import train
from leanmotion.sprites_training.networks import new_scheduler
from leanmotion.sprites_training.recipe import Recipe

FIRST_SEED = 6_000_000
"""Of the clips, away from those of any other training."""
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class MotionChange:
    """How it is trained: `batch` clips in each of the recipe's parts of a step.

    `slower`: clips are rendered in so many times the frames, of which the first are taken.
    """

    rank: int = 2
    slower: float = 1.5
    steps: int = 300
    batch: int = 4
    rate: float = 2e-3
    clips_per_caption: int = 4


class LowRank(nn.Module):
    """Adds B A to a weight [out, in]."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, into = weight.shape
        self.down = nn.Parameter(torch.randn(rank, into, generator=generator) / into**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.up @ self.down


def train_motion_change(pipeline: Any, recipe: Recipe, how: MotionChange, scratch: Path) -> dict[str, Tensor]:
    """State dict key of a `UNetMotionModel` -> what is added to it; the pipeline is left as it was.

    Args:
        pipeline: the teacher's.
        recipe: frames, size, averaging, warm-up, checkpoints.
        how: rank, steps, rate.
        scratch: checkpoints; of these settings and weights alone.
    """
    unet = pipeline.unet.requires_grad_(False)
    layers = {
        name: layer
        for name, layer in unet.named_modules()
        if ".motion_modules." in name and name.endswith(_ATTENTION) and isinstance(layer, nn.Linear)
    }
    generator = torch.Generator().manual_seed(recipe.seed)
    changes = nn.ModuleList(LowRank(layer.weight, how.rank, generator) for layer in layers.values())
    for layer, change in zip(layers.values(), changes, strict=True):
        parametrize.register_parametrization(layer, "weight", change)
    try:
        loss = _loss(pipeline, recipe, how)
        trained = train("motion-change", changes, how.rate, loss, steps=how.steps, recipe=recipe, scratch=scratch)
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert isinstance(trained, nn.ModuleList)
    changed: dict[str, Tensor] = {}
    for name, change in zip(layers, trained, strict=True):
        assert isinstance(change, LowRank)
        changed[f"{name}.weight"] = (change.up @ change.down).detach()
    return changed


def _loss(pipeline: Any, recipe: Recipe, how: MotionChange) -> Any:
    captions = [caption for caption in training_captions() for _ in range(how.clips_per_caption)]
    seeds = [FIRST_SEED + i for i in range(len(captions))]
    clips = render(captions, seeds, frames=round(how.slower * recipe.frames), size=recipe.size)[:, : recipe.frames]
    latents = encode(pipeline.vae, torch.from_numpy(clips).permute(0, 1, 4, 2, 3).contiguous())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        clip = torch.randint(len(latents), (how.batch,), generator=generator)
        times = sample_times(how.batch, generator)
        noisy, target = noised(new_scheduler(recipe), latents[clip], times, generator)
        said = weakened([captions[int(i)] for i in clip], recipe, generator)
        hidden = pipeline.text_encoder(token_ids(pipeline.tokenizer, said)).last_hidden_state.detach()
        hidden = hidden.repeat_interleave(recipe.frames, 0)
        predicted = pipeline.unet(noisy.transpose(1, 2), times, hidden, return_dict=False)[0]
        return F.mse_loss(predicted, target.transpose(1, 2))

    return loss


@torch.no_grad()
def add_change(model: nn.Module, change: Mapping[str, Tensor]) -> int:
    """Adds a change to a UNet or an adapter, in place, where it still has these layers; how many it has."""
    state = model.state_dict()
    left = [key for key in change if key in state]
    for key in left:
        state[key] += change[key].to(state[key].dtype)
    return len(left)
