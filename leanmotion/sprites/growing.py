"""A video network with a level of larger maps put on top of a trained one, as Karras et al. (2018) grow GANs.

Every level keeps its weights and its maps' size, but is the next one down; the smallest is left out. What is new are
the largest maps, and the way in and out.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNetMotionModel
from torch import Tensor, nn
from torch.nn import functional as F

from leanmotion.sprites.networks import new_scheduler, new_video_unet
from leanmotion.sprites.recipe import Recipe

_PROJECTION = "time_emb_proj"


def grown(small: UNetMotionModel, recipe: Recipe) -> UNetMotionModel:
    """The recipe's UNet, with the weights of one trained by `recipe.coarse` where both have the same maps.

    Args:
        small: of `recipe.coarse`; it is left as it is.
        recipe: of the new UNet; seeds what the small one does not have.

    Returns:
        A new UNet of the recipe. Where a layer reads or writes other widths than in the small one (next to the new
        level), it has the weights of the channels that both have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(recipe.seed + 2)
        unet = new_video_unet(recipe)
        theirs = small.state_dict()
        with torch.no_grad():
            for name, ours in unet.state_dict().items():
                source = _source(name, len(recipe.unet_channels))
                if source in theirs and _PROJECTION not in name:
                    shared = tuple(slice(min(a, b)) for a, b in zip(ours.shape, theirs[source].shape, strict=True))
                    ours[shared] = theirs[source][shared]
        _fit_times(unet, small, new_scheduler(recipe), recipe.time_fit_steps)
    return unet


def _source(name: str, levels: int) -> str:
    """The small UNet's name of a parameter of the grown one; for the new level's a name that it does not have."""
    part, index, *rest = name.split(".")
    shift = {"down_blocks": -1, "up_blocks": 1}.get(part)
    if shift is None:
        return name if part == "mid_block" else ""
    return ".".join((part, str(int(index) + shift), *rest)) if 0 <= int(index) + shift < levels else ""


def _fit_times(unet: UNetMotionModel, small: UNetMotionModel, scheduler: DDIMScheduler, steps: int) -> None:
    """Fit time embedding and projections: shared levels are to be told the time that the small UNet would be told.

    Maps of half the size have a quarter of the noise's variance: at timestep t they look to the small network like
    those of the t' whose signal-to-noise ratio is four times as large (Hoogeboom et al. 2023, "simple diffusion").
    """
    a = scheduler.alphas_cumprod
    ratio = (a / (1 - a)).log()
    times = torch.arange(len(a))
    small_times = torch.stack([(ratio - r - torch.tensor(4.0).log()).abs().argmin() for r in ratio])
    ours, theirs = (_time_projections(model) for model in (unet, small))
    pairs = [
        (layer, theirs[source])
        for name, layer in ours.items()
        if (source := _source(name, len(unet.down_blocks))) in theirs
    ]

    with torch.no_grad():
        wanted = _projected(small, small_times, [layer for _, layer in pairs])
    layers = [layer for layer, _ in pairs]
    parameters = [*unet.time_embedding.parameters(), *(p for layer in layers for p in layer.parameters())]
    optimiser = torch.optim.Adam(parameters, 1e-2)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 * (steps - step) / steps)
        optimiser.zero_grad()
        F.mse_loss(_projected(unet, times, layers), wanted).backward()
        optimiser.step()
    unet.zero_grad()


def _time_projections(unet: UNetMotionModel) -> dict[str, nn.Linear]:
    return {name: m for name, m in unet.named_modules() if name.endswith(_PROJECTION) and isinstance(m, nn.Linear)}


def _projected(unet: UNetMotionModel, times: Tensor, layers: list[nn.Linear]) -> Tensor:
    """What every layer adds at every time: [n times, sum of the layers' widths]."""
    embedded = F.silu(unet.time_embedding(unet.time_proj(times).float()))
    return torch.cat([layer(embedded) for layer in layers], 1)
