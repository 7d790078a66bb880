"""A pipeline that holds silent motion modules, made lighter in place: for those who load the stock forms."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from leanmotion.errors import LeanmotionError
from leanmotion.model.motion_norm import set_motion_norm
from leanmotion.model.pruned_adapter import read_pruned_config
from leanmotion.model.pruned_pipeline import PIPELINES, pruned_class
from leanmotion.model.removal import remove_units
from leanmotion.model.units import ATTENTIONS, list_units, motion_slots, parameters
from leanmotion.model.whole_saving import saves_whole


@dataclass(frozen=True)
class Saved:
    """What is gone from a pipeline: units, parameters of its motion modules before and after, and bytes of the gone."""

    units: tuple[str, ...]
    before: int
    after: int
    bytes: int

    def __str__(self) -> str:
        if not self.units:
            return "nothing is silent: all motion modules stay"
        return (
            f"{len(self.units)} silent units removed ({', '.join(self.units)}): {self.before:,} -> {self.after:,} "
            f"parameters in motion modules, {self.bytes / 2**20:.1f} MiB less; none of them is computed any more"
        )


def lean(pipeline: Any, adapter: str | os.PathLike[str] | None = None) -> Saved:
    """Remove, in place, what computes nothing in the motion modules of any pipeline that holds a `UNetMotionModel`.

    It draws the same clips; where the folder's norm is another than the pipeline's, those that were judged. Call it
    once adapter and LoRAs are loaded, before anything is offloaded or compiled. The pipeline then saves the full shape
    (under the norm `frame` that is refused: `save_pruned`), and where it is one of diffusers' AnimateDiff pipelines it
    takes FreeNoise.

    Args:
        pipeline: with the portable or the original form of an adapter.
        adapter: the pruned form's folder: exactly what it lists is removed, and its norm is taken. Without one, all
            that is silent, at any granularity.

    Returns:
        What is gone; printed, it is a sentence.

    Raises:
        LeanmotionError: no motion UNet, weights that are elsewhere, or a unit that the folder lists is not silent.
    """
    from diffusers import UNetMotionModel

    unet = getattr(pipeline, "unet", None)
    if not isinstance(unet, UNetMotionModel):
        raise LeanmotionError(f"lean: the pipeline's unet is a {type(unet).__name__}: give one with a UNetMotionModel")
    if any(value.is_meta for value in unet.parameters()):
        raise LeanmotionError("lean: the UNet's weights are offloaded: call lean before any offloading")
    silent = list(silent_units(unet))
    gone = silent if adapter is None else _listed(adapter, unet, silent)
    before = _motion(unet)
    remove_units(unet, gone)
    if adapter is not None:
        set_motion_norm(unet, read_pruned_config(adapter).get("motion_norm", "clip"))
    saves_whole(unet)
    if type(pipeline).__name__ in PIPELINES and not hasattr(pipeline, "judged"):
        pipeline.__class__ = pruned_class(type(pipeline))
    after = _motion(unet)
    return Saved(tuple(gone), before[0], after[0], before[1] - after[1])


def silent_units(unet: nn.Module) -> Iterator[str]:
    """Ids of units that add exactly nothing, whatever they are given, in forward order; the outermost alone.

    A layer that something wraps, such as a LoRA, counts as one that is heard.
    """
    for slot in motion_slots(unet):
        module: Any = slot.module
        if not hasattr(module, "transformer_blocks"):
            continue
        if _zero(module.proj_out):
            yield slot.block
            continue
        for i, block in enumerate(module.transformer_blocks):
            if not hasattr(block, "ff"):
                continue
            mute = [name for name in ATTENTIONS if (a := getattr(block, name, None)) is not None and _zero(a.to_out[0])]
            there = [name for name in ATTENTIONS if getattr(block, name, None) is not None]
            name = f"{slot.block}-block{i}"
            if mute == there and _zero(block.ff.net[-1]):
                yield name
            else:
                yield from (f"{name}-{attention}" for attention in mute)


def _zero(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and not any(bool(value.any()) for value in layer.parameters())


def _listed(adapter: str | os.PathLike[str], unet: nn.Module, silent: list[str]) -> list[str]:
    present = {unit.id for unit in list_units(unet)}
    listed = [unit for unit in read_pruned_config(adapter)["removed_units"] if unit in present]
    for unit in listed:
        if not any(unit == one or unit.startswith(f"{one}-") for one in silent):
            raise LeanmotionError(
                f"lean: {unit}, which {adapter} has removed, is not silent here: load its own weights"
            )
    return listed


def _motion(unet: nn.Module) -> tuple[int, int]:
    """Parameters of the motion modules, and their bytes."""
    modules = [slot.module for slot in motion_slots(unet)]
    return sum(map(parameters, modules)), sum(p.nbytes for module in modules for p in module.parameters())
