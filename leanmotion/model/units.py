"""The inventory of a motion module: every unit that can be removed, at three granularities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from leanmotion.pipeline.settings import Granularity

ATTENTIONS = {"attn1": "norm1", "attn2": "norm2"}
"""Each attention layer of a `BasicTransformerBlock` and the norm before it, which serves nothing else."""


@dataclass(frozen=True)
class Unit:
    """One removable part of a motion module.

    Attributes:
        id: without dots (DVC splits keys at dots): `up_3_2`, `up_3_2-block0` or `up_3_2-block0-attn1`.
        block: id of the temporal transformer that it is or lies in.
        granularity: `temporal_transformer`, `transformer_block` or `attention`.
        address: module path in the UNet, e.g. `up_blocks.3.motion_modules.2.transformer_blocks.0.attn1`.
        depth: index of the resolution that it works at: 0 is the full latent size, each next one half of it.
        channels: width of its residual stream.
        parameters: what its removal takes away: for an attention layer its own and those of its norm.
    """

    id: str
    block: str
    granularity: Granularity
    address: str
    depth: int
    channels: int
    parameters: int


@dataclass(frozen=True)
class MotionSlot:
    """The place of a temporal transformer in a UNet, whether it is still there or was removed."""

    block: str
    parent: nn.ModuleList
    index: int
    address: str
    depth: int

    @property
    def module(self) -> nn.Module:
        """What stands there now."""
        return self.parent[self.index]


def motion_slots(unet: nn.Module) -> Iterator[MotionSlot]:
    """The places of all temporal transformers in forward order (down, mid, up), removed ones too.

    Args:
        unet: a `diffusers.UNetMotionModel`, or a `MotionAdapter`, which has the same addresses.
    """
    down, mid, up = (getattr(unet, name, None) for name in ("down_blocks", "mid_block", "up_blocks"))
    levels = len(down) if down is not None else 0
    stacks: list[tuple[str, str, Any, int]] = []
    stacks += [(f"down_{i}", f"down_blocks.{i}", stack, i) for i, stack in enumerate(down or ())]
    # The mid block of v1 and v3 adapters has no motion modules.
    stacks += [("mid", "mid_block", mid, levels - 1)] if mid is not None else []
    stacks += [(f"up_{i}", f"up_blocks.{i}", stack, levels - 1 - i) for i, stack in enumerate(up or ())]
    for name, address, stack, depth in stacks:
        modules = getattr(stack, "motion_modules", None)
        for i in range(len(modules) if modules is not None else 0):
            yield MotionSlot(f"{name}_{i}", modules, i, f"{address}.motion_modules.{i}", depth)  # pyright: ignore[reportArgumentType]


def block_ids(unet: nn.Module) -> list[str]:
    """Ids of the temporal transformers that the UNet still has, in forward order."""
    return [slot.block for slot in motion_slots(unet) if _is_motion_module(slot.module)]


def list_units(unet: nn.Module, granularity: Granularity | None = None) -> list[Unit]:
    """The units that the UNet still has, in forward order, an outer one before the ones inside it.

    Args:
        unet: a `diffusers.UNetMotionModel`, or a `MotionAdapter`, with any number of levels and layers.
        granularity: only these; all three when None. Another word finds nothing.

    Returns:
        One `Unit` each. The v2 adapter of AnimateDiff (Guo et al. 2023, arXiv 2307.04725) has 21 temporal
        transformers of a transformer block each, with two attention layers; v1 and v3 have 20. A model without
        motion modules has none.
    """
    units = [unit for slot in motion_slots(unet) for unit in _units_of(slot)]
    return [unit for unit in units if granularity is None or unit.granularity == granularity]


def parameters(module: nn.Module | None) -> int:
    """Number of parameters of a module (buffers do not count); 0 for None."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def _is_motion_module(module: nn.Module) -> bool:
    # By what it has, not by class: this module stays importable without the seconds that diffusers takes.
    return hasattr(module, "transformer_blocks")


def _units_of(slot: MotionSlot) -> Iterator[Unit]:
    module = slot.module
    if not _is_motion_module(module):
        return
    channels = int(getattr(module, "in_channels"))  # noqa: B009  (nn.Module types it as a tensor)

    def unit(suffix: str, granularity: Granularity, address: str, size: int) -> Unit:
        return Unit(slot.block + suffix, slot.block, granularity, address, slot.depth, channels, size)

    yield unit("", "temporal_transformer", slot.address, parameters(module))
    for i, block in enumerate(getattr(module, "transformer_blocks")):  # noqa: B009
        if not hasattr(block, "ff"):  # removed
            continue
        address = f"{slot.address}.transformer_blocks.{i}"
        yield unit(f"-block{i}", "transformer_block", address, parameters(block))
        for name, norm in ATTENTIONS.items():
            attention = getattr(block, name, None)
            if attention is not None:
                size = parameters(attention) + parameters(getattr(block, norm))
                yield unit(f"-block{i}-{name}", "attention", f"{address}.{name}", size)
