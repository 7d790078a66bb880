"""Cosine similarity between each unit's input and output: high means that the unit changes little."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from leanmotion.errors import LeanmotionError
from leanmotion.model.units import ATTENTIONS, Unit, list_units


@dataclass
class Moments:
    """Running count, sum and sum of squares: memory does not grow with what is added.

    They stay on the device of what is added: reading a number back after every module would stall a GPU.
    """

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Adds every element of a tensor of any shape; sums are kept in float64."""
        wide = _with_float64(values).double()
        self.count += values.numel()
        self.total = self.total + wide.sum()
        self.squares = self.squares + wide.square().sum()

    @property
    def mean(self) -> float:
        """Of all that was added; there must have been something."""
        return float(self.total) / self.count

    @property
    def std(self) -> float:
        """Population standard deviation; a rounding error below zero counts as zero."""
        return math.sqrt(max(float(self.squares) / self.count - self.mean**2, 0.0))


@dataclass
class _Seen:
    cosine: Moments = field(default_factory=Moments)
    residual: Moments = field(default_factory=Moments)


def token_cosines(before: Tensor, after: Tensor, dim: int) -> Tensor:
    """Cosine over the channels `dim`, one per token, in float32; 0 where either vector is zero.

    Written as xy / sqrt(xx yy), not as a product of unit vectors, and from the sums on in float64: there the order of a
    sum, or a root that is an ulp off (vector libraries round roots as they like), is far below what rounding to float32
    shows. So an unchanged token gives exactly 1 and a negated one exactly -1, on any processor.
    """
    x, y = (_with_float64(values.detach().float()) for values in (before, after))
    product, xx, yy = ((a * b).sum(dim, dtype=torch.float64) for a, b in ((x, y), (x, x), (y, y)))
    scale = (xx * yy).sqrt()
    return torch.where(scale > 0, product / scale, torch.zeros_like(scale)).float()


class SimilarityRecorder:
    """Hooks on every unit of a UNet, while entered; each call of the UNet adds to the figures of its timestep.

    What is compared: for a temporal transformer and a transformer block what goes in and what comes out, their own
    residual included; for an attention layer what it receives (after norm and positional embedding) and what it
    returns (before its residual), and besides, as `residual_cosine`, the residual stream before and after it.
    With guidance the pipeline's batch holds both halves, and both count.

    Args:
        unet: a `diffusers.UNetMotionModel`; removed units are not there, hence not recorded.
        units: which ones; all when None.
    """

    def __init__(self, unet: nn.Module, units: Iterable[Unit] | None = None) -> None:
        self.unet = unet
        self.units = list(list_units(unet) if units is None else units)
        self.timestep: int | None = None
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._stream: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> SimilarityRecorder:
        handles = self._handles
        handles.append(self.unet.register_forward_pre_hook(self._note_timestep, with_kwargs=True))
        for unit in self.units:
            module = self.unet.get_submodule(unit.address)
            handles.append(module.register_forward_hook(self._compare(unit), with_kwargs=True))
            if unit.granularity == "attention":
                parent, _, name = unit.address.rpartition(".")
                norm = self.unet.get_submodule(f"{parent}.{ATTENTIONS[name]}")
                handles.append(norm.register_forward_pre_hook(self._keep_stream(unit), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._stream.clear()

    def rows(self) -> list[dict[str, Any]]:
        """One row per unit and timestep, in forward order and in the order of the timesteps' first calls.

        Returns:
            Keys unit, block, granularity, timestep, cosine, cosine_std (over tokens, frames and prompts),
            residual_cosine (None but for attention), count (token vectors averaged).

        Raises:
            LeanmotionError: the UNet was never called in between, or what goes through a unit is not finite.
        """
        if not self._seen:
            raise LeanmotionError("similarity: no call of the UNet was recorded: call it inside the `with` block")
        steps = list(dict.fromkeys(step for _, step in self._seen))
        pairs = ((unit, step) for unit in self.units for step in steps if (unit.id, step) in self._seen)
        return [_finite(_row(unit, step, self._seen[unit.id, step])) for unit, step in pairs]

    def _note_timestep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        values = set(timestep.flatten().tolist()) if isinstance(timestep, Tensor) else {timestep}
        if len(values) != 1:
            raise ValueError(f"similarity is kept per timestep, and one call had several: {sorted(values)}")
        self.timestep = int(values.pop())

    def _keep_stream(self, unit: Unit) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._stream[unit.id] = _first(args, kwargs).detach()

        return hook

    def _compare(self, unit: Unit) -> Callable[..., None]:
        # [batch * frames, channels, height, width] outside, [batch * height * width, frames, channels] inside.
        dim = 1 if unit.granularity == "temporal_transformer" else -1

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            if self.timestep is None:
                return
            seen = self._seen.setdefault((unit.id, self.timestep), _Seen())
            seen.cosine.add(token_cosines(_first(args, kwargs), output, dim))
            if unit.granularity == "attention":
                before = self._stream.pop(unit.id)
                seen.residual.add(token_cosines(before, before + output.detach(), dim))

        return hook


def _with_float64(values: Tensor) -> Tensor:
    """The same numbers where float64 is: Apple's GPUs have none."""
    return values.cpu() if values.device.type == "mps" else values


def measure_similarity(
    unet: nn.Module, run: Callable[[], object], units: Iterable[Unit] | None = None
) -> list[dict[str, Any]]:
    """Cosine similarity between input and output of units, while something samples with the UNet.

    Per token over its channels, cos(x, y) = x.y / sqrt(x.x y.y), averaged over tokens, frames and clips: near 1, the
    unit changes its input little, and may be redundant (of language models, 1 minus Block Influence: ShortGPT, Men et
    al. 2024, arXiv 2403.03853).

    Args:
        unet: a `diffusers.UNetMotionModel`; its weights are not changed.
        run: draws clips with it, in whole batches: a clip that pads one would count again.
        units: which ones; all when None.

    Returns:
        Rows of `SimilarityRecorder.rows`, one per unit and timestep; cosines are in [-1, 1].

    Raises:
        LeanmotionError: `run` never called the UNet, or what goes through a unit is not finite.
        ValueError: one call of the UNet had several timesteps.
    """
    with SimilarityRecorder(unet, units) as recorder:
        run()
    return recorder.rows()


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("cosine", "cosine_std", "residual_cosine"):
        if row[name] is not None and not math.isfinite(row[name]):
            raise LeanmotionError(
                f"similarity: {name} of {row['unit']} at timestep {row['timestep']} is not finite: "
                "check the weights, or set teacher.dtype to float32"
            )
    return row


def _row(unit: Unit, timestep: int, seen: _Seen) -> dict[str, Any]:
    return {
        "unit": unit.id,
        "block": unit.block,
        "granularity": unit.granularity,
        "timestep": timestep,
        "cosine": seen.cosine.mean,
        "cosine_std": seen.cosine.std,
        "residual_cosine": seen.residual.mean if seen.residual.count else None,
        "count": seen.cosine.count,
    }
