"""Removal of units from a motion module: what is removed computes nothing and holds no parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.model.units import ATTENTIONS, MotionSlot, list_units, motion_slots

UNet = TypeVar("UNet", bound=nn.Module)


class Skip(nn.Module):
    """The identity in its first argument, without parameters: stands where a unit was.

    diffusers zips a block's resnets, attentions and motion modules, so a shorter list would silently drop the
    resnet too. Motion modules are called by keyword in down and up blocks, by position in the mid block.
    """

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Its first argument as it is, whatever the others."""
        return hidden_states


class LeanTransformerBlock(nn.Module):
    """A `BasicTransformerBlock` that holds and computes only what is left of it.

    Children keep their names, so state dict keys of what is left do not change. The order of operations is that of
    `diffusers.models.attention.BasicTransformerBlock.forward` with `norm_type="layer_norm"`, which motion modules
    use, so that results are equal bit for bit to those of a block whose removed `to_out` is zero.

    Args:
        block: the `BasicTransformerBlock` or `LeanTransformerBlock` whose modules are taken over (not copied).
        without: which of `attn1` and `attn2` to leave out, with its norm. Once both are gone, the positional
            embedding goes as well.
    """

    attn1: nn.Module | None
    attn2: nn.Module | None

    def __init__(self, block: nn.Module, without: Iterable[str]) -> None:
        super().__init__()
        given = block.__dict__["_modules"]
        without = set(without)
        for name, norm in ATTENTIONS.items():
            keep = name not in without
            setattr(self, norm, given.get(norm) if keep else None)
            setattr(self, name, given.get(name) if keep else None)
        self.pos_embed = given.get("pos_embed") if self.attn1 is not None or self.attn2 is not None else None
        self.norm3 = given["norm3"]
        self.ff = given["ff"]
        self._chunk_size: int | None = getattr(block, "_chunk_size", None)
        self._chunk_dim: int = int(getattr(block, "_chunk_dim", 0))
        self.train(block.training)

    def set_chunk_feed_forward(self, chunk_size: int | None, dim: int = 0) -> None:
        """As in diffusers: `unet.enable_forward_chunking` calls it, to compute the feed-forward in slices."""
        self._chunk_size, self._chunk_dim = chunk_size, dim

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """[batch * height * width, frames, channels] -> the same shape. Arguments as in `BasicTransformerBlock`."""
        kwargs = cross_attention_kwargs or {}
        if self.attn1 is not None:
            normed = self._normed(self.norm1, hidden_states)
            hidden_states = self.attn1(normed, attention_mask=attention_mask, **kwargs) + hidden_states
        if self.attn2 is not None:
            normed = self._normed(self.norm2, hidden_states)
            attended = self.attn2(
                normed,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                **kwargs,
            )
            hidden_states = attended + hidden_states
        return self._feed_forward(self.norm3(hidden_states)) + hidden_states

    def _normed(self, norm: Any, hidden_states: Tensor) -> Tensor:
        normed = norm(hidden_states)
        return normed if self.pos_embed is None else self.pos_embed(normed)

    def _feed_forward(self, normed: Tensor) -> Tensor:
        if self._chunk_size is None:
            return self.ff(normed)
        from diffusers.models.attention import _chunked_feed_forward

        return _chunked_feed_forward(self.ff, normed, self._chunk_dim, self._chunk_size)


def remove_units(unet: UNet, ids: Iterable[str]) -> UNet:
    """Removes units from a UNet, in place: their compute and their parameters are gone.

    After BK-SDM (Kim et al. 2023, section 3.1), which removes whole blocks of a UNet: here motion blocks.

    A temporal transformer becomes the identity (its residual path); so does a transformer block, whose motion
    module keeps norm, proj_in, proj_out and the outer residual; an attention layer adds nothing to its residual
    stream, and its norm goes with it. A unit around units that an earlier call removed may be removed: it takes
    their place in `removed_units`.

    Args:
        unet: a `diffusers.UNetMotionModel`.
        ids: of `leanmotion.model.units.Unit`; `[]` changes nothing.

    Returns:
        The same UNet.

    Raises:
        LeanmotionError: an id is unknown, given twice, already removed, or lies inside another that is given or
            already removed. The UNet is then unchanged.
    """
    _remove(unet, _checked(unet, ids))
    return unet


@contextmanager
def without_units(unet: UNet, ids: Iterable[str]) -> Iterator[UNet]:
    """`remove_units` for a while: on leaving, the very same modules are back in their places.

    One loaded teacher serves all ablations.

    Args:
        unet: a `diffusers.UNetMotionModel`.
        ids: of `leanmotion.units.Unit`.

    Yields:
        The same UNet.

    Raises:
        LeanmotionError: as `remove_units`; the UNet is then unchanged.
    """
    undo = _remove(unet, _checked(unet, ids))
    try:
        yield unet
    finally:
        for parent, index, module in reversed(undo):
            parent[index] = module


def removed_units(unet: nn.Module) -> list[str]:
    """Ids of what was removed from the UNet, in forward order, read off its modules; the outermost unit only."""
    return [unit for slot in motion_slots(unet) for unit in _removed_in(slot)]


def _removed_in(slot: MotionSlot) -> Iterator[str]:
    if isinstance(slot.module, Skip):
        yield slot.block
        return
    for i, block in enumerate(getattr(slot.module, "transformer_blocks", ())):
        name = f"{slot.block}-block{i}"
        if isinstance(block, Skip):
            yield name
        elif isinstance(block, LeanTransformerBlock):
            yield from (f"{name}-{attention}" for attention in ATTENTIONS if getattr(block, attention) is None)


def _outer(unit: str) -> list[str]:
    """Ids of the units around one: `up_3_2-block0-attn1` lies in `up_3_2` and in `up_3_2-block0`."""
    parts = unit.split("-")
    return ["-".join(parts[:n]) for n in range(1, len(parts))]


def _checked(unet: nn.Module, ids: Iterable[str]) -> list[str]:
    ids = list(ids)
    present = [unit.id for unit in list_units(unet)]
    gone = removed_units(unet)
    for i, unit in enumerate(ids):
        if unit in ids[:i]:
            raise LeanmotionError(f"units to remove: {unit!r} is given twice: give it once")
        for outer in _outer(unit):
            if outer in ids:
                raise LeanmotionError(f"units to remove: {unit!r} lies inside {outer!r}: give one of the two")
            if outer in gone:
                raise LeanmotionError(f"units to remove: {unit!r} lies inside {outer!r}, already removed: drop it")
        if unit in gone:
            raise LeanmotionError(f"units to remove: {unit!r} is already removed: drop it from the list")
        if unit not in present:
            raise LeanmotionError(f"units to remove: this UNet has no unit {unit!r}{did_you_mean(unit, present)}")
    return ids


def _remove(unet: nn.Module, ids: list[str]) -> list[tuple[nn.ModuleList, int, nn.Module]]:
    """Replaces modules; returns what stood where, to undo it in reverse order."""
    slots = {slot.block: slot for slot in motion_slots(unet)}
    undo: list[tuple[nn.ModuleList, int, nn.Module]] = []
    for unit in ids:
        block, *inner = unit.split("-")
        parent, index = slots[block].parent, slots[block].index
        replacement: nn.Module = Skip()
        if inner:
            parent, index = getattr(parent[index], "transformer_blocks"), int(inner[0].removeprefix("block"))  # noqa: B009
        if len(inner) == 2:
            replacement = LeanTransformerBlock(_layer_normed(parent[index], unit), {inner[1]})
        undo.append((parent, index, parent[index]))
        parent[index] = replacement
    return undo


def _layer_normed(block: nn.Module, unit: str) -> nn.Module:
    """The block, if `LeanTransformerBlock` can stand for it."""
    kind = getattr(block, "norm_type", "layer_norm")
    if kind != "layer_norm" or getattr(block, "only_cross_attention", False) or hasattr(block, "fuser"):
        raise LeanmotionError(
            f"units to remove: {unit!r} is in a transformer block that no published motion module has (norm_type "
            f"{kind!r}, only_cross_attention or a fuser): remove the block around it instead"
        )
    return block
