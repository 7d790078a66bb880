"""Clips from captions: only the motion modules learn, and the deep ones before the others.

Left to themselves the modules at large maps learn to hold a clip together alone, and those at 2 x 2 maps and below stay
idle. So the deep ones are trained first, with the others bypassed; then all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from leanmotion.sprites.images import new_scheduler, noised, sample_times, token_ids
from leanmotion.sprites.recipe import Recipe
from leanmotion.sprites.training import train

DEEP = ("down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1")


class PassThrough(nn.Module):
    """Stands where a motion module is bypassed."""

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """The input, whatever else a motion module is called with."""
        return hidden_states


def new_adapter(recipe: Recipe) -> MotionAdapter:
    """A v2 motion adapter (21 blocks) for the recipe's UNet, each block the identity until it learns."""
    adapter = MotionAdapter(
        block_out_channels=recipe.unet_channels,
        motion_layers_per_block=2,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=recipe.motion_heads,
        motion_norm_num_groups=recipe.unet_groups,
        motion_max_seq_length=32,
        use_motion_mid_block=True,
    )
    for name, module in adapter.named_modules():
        if name.endswith("proj_out") and isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return adapter


def motion_modules(unet: UNetMotionModel) -> dict[str, nn.Module]:
    """Address ("down_blocks.0.motion_modules.1") -> motion module, in the order of the UNet's own modules."""
    return {name: m for name, m in unet.named_modules() if name.rpartition(".")[0].endswith("motion_modules")}


@contextmanager
def bypassed(unet: UNetMotionModel, addresses: Sequence[str]) -> Iterator[None]:
    """Within, the motion modules at these addresses cost nothing and change nothing."""
    held = {address: unet.get_submodule(address) for address in addresses}
    for address in held:
        unet.set_submodule(address, PassThrough())
    try:
        yield
    finally:
        for address, module in held.items():
            unet.set_submodule(address, module)


def train_motion(
    latents: Tensor,
    captions: Sequence[str],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    recipe: Recipe,
    scratch: Path,
) -> UNetMotionModel:
    """Train a motion adapter on a frozen UNet.

    Args:
        latents: scaled [clips, frames, 4, h, w].
        captions: one per clip.
        tokenizer: of the captions.
        text_encoder: trained on single images; not changed.
        unet: trained on single images; not changed.
        recipe: steps, batch, rates.
        scratch: checkpoints.

    Returns:
        The UNet with averaged motion modules.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(recipe.seed + 2)
        model = UNetMotionModel.from_unet2d(unet, new_adapter(recipe))
    assert isinstance(model, UNetMotionModel)
    model.requires_grad_(False)
    scheduler = new_scheduler(recipe)
    words = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    caption_of = torch.tensor([words[caption] for caption in captions])
    with torch.no_grad():
        hidden_of = text_encoder.eval()(token_ids(tokenizer, list(words))).last_hidden_state

    def loss(step: int, generator: torch.Generator) -> Tensor:
        n, frames = recipe.motion_batch, latents.shape[1]
        clip = torch.randint(len(latents), (n,), generator=generator)
        times = sample_times(n, generator)
        noisy, target = noised(scheduler, latents[clip], times, generator)
        hidden = hidden_of[caption_of[clip]].repeat_interleave(frames, 0)
        predicted = model(noisy.transpose(1, 2), times, hidden, return_dict=False)[0]
        return F.mse_loss(predicted, target.transpose(1, 2))

    modules = motion_modules(model)
    deep = {name: m.requires_grad_(True) for name, m in modules.items() if name.startswith(DEEP)}
    shallow = {name: m for name, m in modules.items() if name not in deep}
    deep_group = {"params": [p for m in deep.values() for p in m.parameters()], "lr": recipe.motion_rate}
    with bypassed(model, list(shallow)):
        held = nn.ModuleList(deep.values())
        steps = recipe.motion_deep_steps
        average = train("motion_deep", held, [deep_group], loss, steps=steps, recipe=recipe, scratch=scratch)
        held.load_state_dict(average.state_dict())

    for m in shallow.values():
        m.requires_grad_(True)
    shallow_group = {"params": [p for m in shallow.values() for p in m.parameters()], "lr": recipe.motion_shallow_rate}
    held = nn.ModuleList(modules.values())
    groups = [{**deep_group, "lr": recipe.motion_rate / 2}, shallow_group]
    average = train("motion", held, groups, loss, steps=recipe.motion_steps, recipe=recipe, scratch=scratch)
    held.load_state_dict(average.state_dict())
    return model.eval().requires_grad_(False)
