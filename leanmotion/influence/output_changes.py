"""The change of the model's output when a unit is removed, on states of the teacher's own trajectory.

The criterion is that of LAPTOP-Diff (Zhang et al. 2024, arXiv 2404.11098, section 3.2: the squared change of the
network's output without a layer), there on noised data. That changes are kept with one another, as a Gram matrix, so
that sets of units can be scored, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        steps: which ones, rising; the trajectory ends at the last.
        device: where the networks are.
        unet: a copy of the pipeline's, to call in its place.
        progress: told of one call of the UNet at a time, partial ones too.

    Returns:
        Rows of artefact `changes`: unit, other, step, timestep, values (one a clip); each pair once.

    Raises:
        LeanmotionError: the output is not finite.
    """
    unet = pipeline.unet if unet is None else unet
    walk = Trajectory(pipeline, settings, requests, device)
    units, rows = list_units(unet), list[dict[str, Any]]()
    with PartialCalls(unet) as calls:
        for step in range(max(steps) + 1):
            inputs = walk.inputs(step)
            output = walk.prediction(calls.whole(inputs))
            progress(1)
            if step in steps:
                labels = {"step": step, "timestep": float(walk.timesteps[step])}
                _require_finite(output, f"the whole model at step {step}", requests)

                def change(unit: Unit, inputs: Any = inputs, output: Tensor = output) -> Tensor:
                    with without_units(unet, [unit.id]):
                        found = walk.prediction(calls.after(unit.block, inputs)).float() - output.float()
                    progress(1)
                    return found.flatten(1)

                rows += [{**row, **labels} for row in _products(units, change, requests)]
            walk.advance(output, step)
    return rows


def _products(
    units: Sequence[Unit], change: Callable[[Unit], Float[Tensor, "clips numbers"]], requests: Sequence[Request]
) -> list[dict[str, Any]]:
    """Inner products of changes, a mean over a latent's numbers: all pairs of units of a granularity, each once."""
    changes: dict[str, Tensor] = {}
    for unit in units:
        changes[unit.id] = change(unit)
        _require_finite(changes[unit.id], unit.id, requests)
    rows = []
    for granularity in GRANULARITIES:
        names = [unit.id for unit in units if unit.granularity == granularity]
        if not names:
            continue
        mine = torch.stack([changes[name] for name in names]).double()
        products = torch.einsum("icx,jcx->ijc", mine, mine) / mine.shape[2]
        rows += [
            {"unit": one, "other": other, "values": products[i, j].tolist()}
            for i, one in enumerate(names)
            for j, other in enumerate(names[: i + 1])
        ]
    return rows


def _require_finite(values: Tensor, what: str, requests: Sequence[Request]) -> None:
    finite = values.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        prompt = requests[int((~finite).int().argmax())].prompt
        raise LeanmotionError(
            f"influence: the output without {what}, prompt {prompt!r}, is not finite: check the weights, or set "
            "teacher.dtype to float32"
        )
