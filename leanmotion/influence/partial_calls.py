"""Calls of a UNet from one of its motion modules on: what lies before it is kept from a call of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from torch import nn

from leanmotion.errors import LeanmotionError
from leanmotion.model.units import motion_slots


def parts_of(unet: nn.Module) -> list[str]:
    """Addresses of a UNet's pieces that are called once a call, one after the other.

    The first convolution, residual, attention and motion blocks, and what changes sizes.
    """
    stacks = [("mid_block", getattr(unet, "mid_block", None))]
    for name in ("down_blocks", "up_blocks"):
        stacks += [(f"{name}.{i}", block) for i, block in enumerate(getattr(unet, name))]
    return ["conv_in", *(part for address, stack in stacks for part in _inside(address, stack))]


def _inside(address: str, stack: nn.Module | None) -> Iterator[str]:
    for name, child in stack.named_children() if stack is not None else ():
        if isinstance(child, nn.ModuleList):
            yield from (f"{address}.{name}.{i}" for i in range(len(child)))


class PartialCalls:
    """A UNet, while entered: `whole` calls it and keeps what its parts return, `after` hands that back.

    The output of `after` is that of a whole call, bit for bit: what lies before the motion module of a block does not
    depend on what is removed from it. Memory: one output a part. One call at a time: for several at once, copy the
    UNet.

    Args:
        unet: a `diffusers.UNetMotionModel` with all its motion modules. Entered, it is not to be copied or saved.
    """

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self._modules = {address: unet.get_submodule(address) for address in parts_of(unet)}
        self._slots = {slot.block: slot.address for slot in motion_slots(unet)}
        self._forwards: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}
        self._back: frozenset[str] = frozenset()
        self._keeping = False

    def __enter__(self) -> PartialCalls:
        for address, module in self._modules.items():
            # What else stands in for `forward` (weights that are moved on demand) is an attribute of its own.
            self._forwards[address] = module.__dict__.get("forward")
            module.forward = self._watched(address, module.forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for address, forward in self._forwards.items():
            del self._modules[address].forward
            if forward is not None:
                self._modules[address].forward = forward
        self._forwards.clear()
        self._kept.clear()

    def whole(self, inputs: dict[str, Any]) -> Any:
        """The UNet's output; `inputs` are its keyword arguments, the same ones for each `after` that follows."""
        self._kept.clear()
        self._keeping = True
        try:
            return self._call(inputs)
        finally:
            self._keeping = False

    def after(self, block: str, inputs: dict[str, Any]) -> Any:
        """The UNet's output as it is now, all that `whole` called before the block's motion module handed back.

        Raises:
            LeanmotionError: no `whole` before, or it had no such block.
        """
        self._back = frozenset(self.before(block))
        try:
            return self._call(inputs)
        finally:
            self._back = frozenset()

    def before(self, block: str) -> list[str]:
        """Addresses of the parts that the last `whole` called before a block's motion module, in that order."""
        called = list(self._kept)
        try:
            return called[: called.index(self._slots[block])]
        except (KeyError, ValueError):
            raise LeanmotionError(f"no call of the whole UNet came to a motion block {block!r}") from None

    def _call(self, inputs: dict[str, Any]) -> Any:
        return self.unet(**inputs, return_dict=False)[0]

    def _watched(self, address: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if address in self._back:
                return self._kept[address]
            output = forward(*args, **kwargs)
            if self._keeping:
                self._kept[address] = output
            return output

        return call
