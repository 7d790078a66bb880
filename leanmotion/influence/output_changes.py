"""The change of the model's output when a unit is removed, on states of the teacher's own trajectory.

The criterion is that of LAPTOP-Diff (Zhang et al. 2024, arXiv 2404.11098, section 3.2: the squared change of the
network's output without a layer), there on noised data. That changes are kept with one another, as a Gram matrix, so
that sets of units can be scored, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.influence.partial_calls import PartialCalls
from leanmotion.influence.trajectory import Trajectory
from leanmotion.model.removal import without_units
from leanmotion.model.requests import Request
from leanmotion.model.units import Unit, list_units
from leanmotion.pipeline.setting_address import added
from leanmotion.pipeline.settings import GRANULARITIES, Sampling


@torch.inference_mode()
def output_changes(
    pipeline: Any,
    settings: Sampling,
    requests: Sequence[Request],
    steps: Sequence[int],
    *,
    device: str = "cpu",
    unet: Any = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Changes of the guided output at some steps of the sampler, for clips that are drawn together.

    With `D_i` the output without unit i less the output of the whole, at the same latents: `<D_i, D_j>`, a mean over
    a latent's numbers, of all pairs of units of a granularity.

    Args:
        pipeline: with all its motion modules, in eval mode.
        settings: of sampling.
        requests: clips, all in one batch.
        steps: which ones.
        device: where the networks are.
        unet: a copy of the pipeline's, to call in its place.
        progress: told of one call of the UNet at a time, partial ones too.

    Returns:
        Rows of artefact `changes`: unit, other, step, timestep, values (one a clip), each pair once. Of a unit with
        itself also `along`: `<D_i, z>^2`, a mean over the others' final latents `z` less their mean, over as many
        numbers as a latent has; none where a clip is alone.

    Raises:
        LeanmotionError: the output is not finite.
    """
    unet = pipeline.unet if unet is None else unet
    walk = Trajectory(pipeline, settings, requests, device)
    seen: dict[int, Any] = {}
    for step in range(len(walk.timesteps)):
        inputs = walk.inputs(step)
        output = walk.prediction(unet(**inputs, return_dict=False)[0])
        progress(1)
        if step in steps:
            _require_finite(output, f"the whole model at step {step}", requests)
            seen[step] = inputs
        walk.advance(output, step)
    final = walk.latents.flatten(1).double()
    units, rows = list_units(unet), list[dict[str, Any]]()
    with PartialCalls(unet) as calls:
        for step, inputs in seen.items():
            output = walk.prediction(calls.whole(inputs)).float()
            progress(1)
            changes: dict[str, Tensor] = {}
            if added(settings.torch_compile):
                from leanmotion.model.compiling import uncompiled
                from leanmotion.model.units import motion_slots

                plain: dict[str, Tensor] = {}
                slots = {slot.block: slot for slot in motion_slots(unet)}
            for unit in units:
                with without_units(unet, [unit.id]):
                    changes[unit.id] = (walk.prediction(calls.after(unit.block, inputs)).float() - output).flatten(1)
                if added(settings.torch_compile and unit.id != unit.block):
                    # With a unit gone from inside, its block runs uncompiled: so does the whole that it is compared to.
                    if unit.block not in plain:
                        with uncompiled(slots[unit.block].module):
                            plain[unit.block] = walk.prediction(calls.after(unit.block, inputs)).float()
                    changes[unit.id] += (output - plain[unit.block]).flatten(1)
                progress(1)
                _require_finite(changes[unit.id], f"the output without {unit.id}", requests)
            labels = {"step": step, "timestep": float(walk.timesteps[step])}
            rows += [{**row, **labels} for row in _products(units, changes, final)]
    return rows


def _products(
    units: Sequence[Unit],
    changes: dict[str, Float[Tensor, "clips numbers"]],
    final: Float[Tensor, "clips numbers"],
) -> Iterator[dict[str, Any]]:
    """Inner products of changes, a mean over a latent's numbers: all pairs of units of a granularity, each once."""
    for granularity in GRANULARITIES:
        names = [unit.id for unit in units if unit.granularity == granularity]
        if not names:
            continue
        mine = torch.stack([changes[name] for name in names]).double()
        products = torch.einsum("icx,jcx->ijc", mine, mine) / mine.shape[2]
        along = _along(mine, final)
        for i, one in enumerate(names):
            for j, other in enumerate(names[: i + 1]):
                yield {
                    "unit": one, "other": other, "values": products[i, j].tolist(),
                    "along": along[i].tolist() if i == j else [],
                }  # fmt: skip


def _along(
    changes: Float[Tensor, "units clips numbers"], final: Float[Tensor, "clips numbers"]
) -> Float[Tensor, "units clips"] | Tensor:
    """Squared change times the variance of latents along it, which other clips tell: their own would be no sample."""
    units, clips, numbers = changes.shape
    if clips < 3:  # two others make the first variance
        return changes.new_zeros(units, 0)
    found = []
    for clip in range(clips):
        others = torch.cat([final[:clip], final[clip + 1 :]])
        others = others - others.mean(dim=0)
        found.append((changes[:, clip] @ others.T).square().sum(dim=1) / (clips - 2) / numbers)
    return torch.stack(found, dim=1)


def _require_finite(values: Tensor, what: str, requests: Sequence[Request]) -> None:
    finite = values.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        prompt = requests[int((~finite).int().argmax())].prompt
        raise LeanmotionError(
            f"influence: {what}, prompt {prompt!r}, is not finite: check the weights, or set teacher.dtype to float32"
        )
