"""What diffusers' own saving writes of a UNet with removed units: the full shape, in which they do exactly nothing.

Stock loading would fill what is missing with anything that lies in memory, and only warn.
"""

from functools import partial
from typing import Any

import diffusers
import torch

from leanmotion.errors import LeanmotionError
from leanmotion.model.motion_norm import motion_norm
from leanmotion.model.motion_state import full_motion_state, motion_config


def saves_whole(unet: Any) -> None:
    """Has `save_pretrained` and `save_motion_modules` of a `UNetMotionModel` write the full shape, in place."""
    unet.save_pretrained = partial(save_whole, unet)
    unet.save_motion_modules = partial(save_motion_whole, unet)


def save_whole(
    unet: Any,
    save_directory: Any,
    is_main_process: bool = True,
    save_function: Any = None,
    safe_serialization: bool = True,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
    **options: Any,
) -> None:
    """`save_pretrained` of a UNet with removed units, which stock diffusers loads again.

    Arguments are those of `save_pretrained`, of which a pipeline looks up three by name.

    Raises:
        LeanmotionError: layers were added to it, such as a LoRA's; or it normalises as no stock loader does.
    """
    _refuse_frames(unet, save_directory)
    with torch.device("meta"):
        whole: Any = diffusers.UNetMotionModel.from_config(unet.config)
    state = unet.state_dict()
    if added := state.keys() - whole.state_dict().keys():
        raise LeanmotionError(f"{save_directory}: the UNet has layers of others ({min(added)}): unload them, then save")
    whole.load_state_dict({**state, **full_motion_state(unet)}, assign=True)
    given = (is_main_process, save_function, safe_serialization, variant, max_shard_size)
    whole.save_pretrained(save_directory, *given, **options)


def save_motion_whole(unet: Any, save_directory: Any, is_main_process: bool = True, **options: Any) -> None:
    """`save_motion_modules` of a UNet with removed units: a `MotionAdapter` of the full shape. Options as there.

    Raises:
        LeanmotionError: as `save_whole`.
    """
    _refuse_frames(unet, save_directory)
    with torch.device("meta"):
        adapter = diffusers.MotionAdapter(**motion_config(unet))
    adapter.load_state_dict(full_motion_state(unet), assign=True)
    adapter.save_pretrained(save_directory, is_main_process, **options)


def _refuse_frames(unet: Any, folder: Any) -> None:
    if motion_norm(unet) == "frame":
        raise LeanmotionError(
            f"{folder}: this adapter normalises frame by frame (motion_norm), which no folder of diffusers says, so "
            "that it would draw other clips: write it with save_pruned"
        )
