"""Files half as large: motion modules rounded to float16, and what that does to the UNet's output."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.model.units import motion_slots

if TYPE_CHECKING:
    from diffusers import UNetMotionModel

ROUNDING = 0.01
"""How far float16 may move the UNet's output, as a share of its largest value.

A weight moves by 2^-11 of itself at most, 2^-11 / sqrt(3) = 2.8e-4 in the mean square. One after the other, some 250
layers (21 blocks of a dozen) add up to sqrt(250) * 2.8e-4 = 0.0045 of what motion blocks contribute; twice that is
allowed. What does not fit into float16 at all (65,504 at most) moves it by infinity.
"""


def cast_motion(unet: "UNetMotionModel", dtype: torch.dtype) -> None:
    """Puts all motion modules, and nothing else, into a dtype, in place."""
    for slot in motion_slots(unet):
        slot.module.to(dtype)


@torch.no_grad()
def round_motion(unet: "UNetMotionModel", inputs: Mapping[str, Any]) -> float:
    """Rounds the motion modules of a float32 UNet to what float16 holds, in place; they stay in float32.

    Args:
        unet: in float32.
        inputs: of a call.

    Returns:
        How far its output moved, as a share of its largest value.

    Raises:
        LeanmotionError: by more than `ROUNDING`.
    """
    before: Tensor = unet(**inputs).sample
    cast_motion(unet, torch.float16)
    cast_motion(unet, torch.float32)
    moved = float((unet(**inputs).sample - before).abs().max() / before.abs().max())
    if not moved <= ROUNDING:
        raise LeanmotionError(
            f"export.dtype is float16: the UNet's output moves by {moved:.2g} of its largest value, {ROUNDING:g} is "
            "allowed: set as_judged"
        )
    return moved
