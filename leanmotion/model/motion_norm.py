"""Over what a motion module's GroupNorm normalises: all frames of a clip together, or each frame by itself.

diffusers takes mean and variance of a group of channels over frames, height and width. The original code
(guoyww/AnimateDiff, motion_module.py: `b c f h w -> (b f) c h w` before the norm), with which the published modules
were trained, and ComfyUI's AnimateDiff-Evolved take them frame by frame.
"""

from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from leanmotion.model.units import motion_slots
from leanmotion.pipeline.settings import MotionNorm

Model = TypeVar("Model", bound=nn.Module)


class FrameNorm(nn.GroupNorm):
    """A GroupNorm (Wu and He 2018) of each frame by itself; parameters and their names are a `nn.GroupNorm`'s."""

    def forward(
        self, input: Float[Tensor, "clips channels frames height width"]
    ) -> Float[Tensor, "clips channels frames height width"]:
        """Normalised; to the bit what the original code gives for the same frames as a batch of pictures."""
        frames = input.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


def set_motion_norm(unet: Model, norm: MotionNorm) -> Model:
    """Has all motion modules normalise so, in place; weights stay the very same tensors.

    Args:
        unet: a `diffusers.UNetMotionModel`; what was removed has no norm.
        norm: `clip`, as diffusers makes them, or `frame`.

    Returns:
        The same UNet.
    """
    kind = FrameNorm if norm == "frame" else nn.GroupNorm
    for slot in motion_slots(unet):
        given = getattr(slot.module, "norm", None)
        if isinstance(given, nn.GroupNorm) and type(given) is not kind:
            made = kind(given.num_groups, given.num_channels, given.eps, affine=False)
            made.affine, made.weight, made.bias = given.affine, given.weight, given.bias
            setattr(slot.module, "norm", made.train(given.training))  # noqa: B010  (nn.Module types it as a tensor)
    return unet


def motion_norm(unet: nn.Module) -> MotionNorm:
    """How the motion modules of a UNet or adapter normalise; `clip` where none is left."""
    norms = (getattr(slot.module, "norm", None) for slot in motion_slots(unet))
    return "frame" if any(isinstance(norm, FrameNorm) for norm in norms) else "clip"
