"""ComfyUI's custom node: AnimateDiff-Evolved skips the motion blocks that a pruned adapter's file silenced.

An export copies this file, as it stands, into a folder for `custom_nodes/`: it imports torch, nothing of leanmotion.

What it needs of AnimateDiff-Evolved, at its commit d8d163c (`animatediff/motion_module_ad.py`, `model_injection.py`),
and of ComfyUI's `ModelPatcher`:

- the output of "Load AnimateDiff Model": `.model`, `.clone()`, `.size` (0: counted anew), `.backup` (what patched
  weights were, by key);
- of `.model`: `down_blocks` and `up_blocks` (lists or None), `mid_block` (None in a file without one), each with
  `motion_modules`, each of these with `temporal_transformer`;
- of a temporal transformer: `proj_out`, `transformer_blocks[i].cc_projection`, and the calls that `Nothing` takes.
"""

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch


class Nothing(torch.nn.Module):
    """In the place of a silenced temporal transformer: returns what it is given, holds no weights.

    The module around it stays, and so does what that one does itself: the injection into the UNet, which goes by its
    class; effect masks; features of AnimateLCM-I2V.
    """

    # Evolved looks for MotionCtrl's projection in the very first block.
    transformer_blocks = (SimpleNamespace(cc_projection=None),)

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        """The first argument, [batch * frames, channels, height, width], as it is."""
        return hidden_states

    def _ignored(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to set."""

    set_video_length = set_scale = set_cameractrl_effect = set_sub_idxs = reset_temp_vars = _ignored


class SkipSilencedMotionBlocks:
    """Between "Load AnimateDiff Model" and "Apply AnimateDiff Model": silenced blocks are dropped from the model.

    The loaded model itself loses them, for all that use it: they added exactly nothing.
    """

    RETURN_TYPES = ("MOTION_MODEL_ADE",)
    RETURN_NAMES = ("MOTION_MODEL",)
    FUNCTION = "skip"
    CATEGORY = "Animate Diff/leanmotion"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node takes, in ComfyUI's words."""
        return {"required": {"motion_model": ("MOTION_MODEL_ADE",)}}

    def skip(self, motion_model: Any) -> tuple[Any]:
        """The same motion model, which computes and holds no silenced block."""
        skipped = drop_silenced(motion_model.model, motion_model.backup)
        level = logging.INFO if skipped else logging.WARNING
        logging.log(level, "leanmotion: %d silenced motion blocks are skipped", skipped)
        motion_model = motion_model.clone()
        motion_model.size = 0
        return (motion_model,)


def drop_silenced(model: Any, backup: dict[str, Any]) -> int:
    """Puts `Nothing` in the place of every silenced block; blocks that an earlier call dropped are counted too.

    Args:
        model: Evolved's `AnimateDiffModel`.
        backup: what weights were before a LoRA patched them, by key: what is dropped is not to be put back.

    Returns:
        How many are skipped now.
    """
    skipped = 0
    for address, module in motion_modules(model):
        if is_silenced(module.temporal_transformer):
            module.temporal_transformer = Nothing()
            for key in [key for key in backup if key.startswith(f"{address}.temporal_transformer.")]:
                del backup[key]
        skipped += isinstance(module.temporal_transformer, Nothing)
    return skipped


def motion_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """The motion modules of Evolved's `AnimateDiffModel`, each with where it stands there."""
    for name in ("down_blocks", "up_blocks"):
        for i, stack in enumerate(getattr(model, name) or ()):
            for j, module in enumerate(stack.motion_modules):
                yield f"{name}.{i}.motion_modules.{j}", module
    if model.mid_block is not None:
        yield "mid_block.motion_modules.0", model.mid_block.motion_modules[0]


def is_silenced(transformer: Any) -> bool:
    """Whether it adds nothing, whatever comes in: `proj_out` is all zero, and no MotionCtrl hangs on the block."""
    out = getattr(transformer, "proj_out", None)
    if out is None or any(block.cc_projection is not None for block in transformer.transformer_blocks):
        return False
    # In float32: torch asks no tensor of 8-bit floats whether it holds anything.
    return not any(bool(weight.to(torch.float32).any()) for weight in (out.weight, out.bias))


NODE_CLASS_MAPPINGS = {"LeanmotionSkipSilenced": SkipSilencedMotionBlocks}
NODE_DISPLAY_NAME_MAPPINGS = {"LeanmotionSkipSilenced": "Skip silenced motion blocks (leanmotion)"}
