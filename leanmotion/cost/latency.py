"""Measured time of UNet calls: whole ones side by side, so that drift cancels, and of each block inside them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import torch

from leanmotion.cost.in_call import WATCHED, Watched, in_call_rows
from leanmotion.cost.macs import unet_inputs, unet_macs
from leanmotion.cost.timing import (
    FULL,
    NONE,
    Clock,
    Timed,
    device_clock,
    measure_latency,
    paired_savings,
    without_variants,
)
from leanmotion.errors import LeanmotionError
from leanmotion.model.sampler import Sampler, latent_shape, one_thread_a_call
from leanmotion.model.units import block_ids, list_units, parameters
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.settings import Settings

Removals = Mapping[str, Sequence[str]]
"""Variant -> ids of the blocks that it has lost."""


def latency_rows(pipeline: Any, settings: Settings) -> list[dict[str, Any]]:
    """Artefact `profile`: the whole UNet (`full`), with a clock on every block (`watched`), each block, none at all.

    A block's saving is its time inside the watched calls, and its `seconds` are the rest of these. The others are whole
    calls, each beside a call of the whole UNet. A call is what sampling makes of `profile.batch` clips: twice as many
    with guidance.

    Raises:
        LeanmotionError: a call never came to a block, or a clock tells no time.
    """
    unet = pipeline.unet
    parts = {unit.id: unet.get_submodule(unit.address) for unit in list_units(unet, "temporal_transformer")}
    removals: Removals = {FULL: (), WATCHED: (), **{block: (block,) for block in parts}, NONE: tuple(parts)}
    costs = _costs(pipeline, settings, removals)
    with _as_sampled(pipeline, settings) as (inputs, clock):
        calls = without_variants(unet, inputs, {FULL: removals[FULL], NONE: removals[NONE]})
        watched = Watched(calls[FULL], parts, clock)
        timed = _timed({**calls, WATCHED: watched}, settings, clock)
    whole = [row for row in timed if row["variant"] == WATCHED]
    timed += in_call_rows(whole, watched.savings[settings.profile.warmup :])
    return _rows(timed, costs, clock)


def round_latency_rows(
    pipeline: Any, settings: Settings, rounds: Removals, profile: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Artefact `latency`: whole calls without each round's blocks, beside what these blocks' own times foretold.

    Time does not depend on the values of weights: the original's serve.

    Args:
        pipeline: of the original.
        settings: all settings.
        rounds: round -> blocks that are gone after it.
        profile: block -> share of a call that it takes (`saving_fraction` of artefact `profile`).
    """
    removals: Removals = {FULL: (), **rounds, NONE: block_ids(pipeline.unet)}
    costs = _costs(pipeline, settings, removals)
    with _as_sampled(pipeline, settings) as (inputs, clock):
        timed = _timed(without_variants(pipeline.unet, inputs, removals), settings, clock)
    rows = _rows(timed, costs, clock)
    # Shares, not seconds: the two stages run minutes apart, and a machine's clock moves by a fifth in between.
    call = rows[0]["seconds"]
    return [{**row, "predicted": call * sum(profile[block] for block in removals[row["variant"]])} for row in rows]


def _costs(pipeline: Any, settings: Settings, removals: Removals) -> dict[str, dict[str, int]]:
    """Variant -> blocks that it has lost, and parameters and MACs of the UNet (of one clip) without them.

    Counted before the networks are placed and compiled, and once: what goes with a block is what the block holds.
    """
    unet = pipeline.unet
    units = {unit.id: unit for unit in list_units(unet, "temporal_transformer")}
    macs = unet_macs(unet, **_size(pipeline, settings), units=units.values())
    return {
        name: {
            "blocks": len(removed),
            "parameters": parameters(unet) - sum(units[block].parameters for block in removed),
            "macs": macs["total"] - sum(macs[block] for block in removed),
        }
        for name, removed in removals.items()
    }


def _size(pipeline: Any, settings: Settings) -> dict[str, int]:
    _, frames, height, width = latent_shape(pipeline, settings.sampling)
    return {"frames": frames, "height": height, "width": width, "tokens": pipeline.tokenizer.model_max_length}


@contextmanager
def _as_sampled(pipeline: Any, settings: Settings) -> Iterator[tuple[dict[str, torch.Tensor], Clock]]:
    """A call's inputs and clock, with the attention, the compilation and the threads of a call of the sampler."""
    # Asked before any hook is placed: shares of a chunk, one thread each, lie side by side only in what nobody watches.
    lanes = Sampler(pipeline, settings.sampling, device()).lanes()
    clips = settings.profile.batch * (2 if settings.sampling.guidance > 1 else 1)
    inputs = unet_inputs(pipeline.unet, **_size(pipeline, settings), batch=clips, device=device())
    with one_thread_a_call() if lanes > 1 else nullcontext():
        yield inputs, device_clock(device())


def _timed(variants: Mapping[str, Timed], settings: Settings, clock: Clock) -> list[dict[str, Any]]:
    rounds, warmup = settings.profile.rounds, settings.profile.warmup
    with closing(Progress("timing", (rounds + warmup) * len(variants), "pair")) as progress:
        timed = measure_latency(
            variants,
            rounds=rounds,
            warmup=warmup,
            seed=settings.profile.seed,
            synchronise=clock.wait,
            clock=clock.now,
            progress=progress.update,
        )
    for row in timed:
        for name, took in ((row["variant"], row["seconds"]), (FULL, row["reference_seconds"])):
            if not (math.isfinite(took) and took > 0):
                raise LeanmotionError(f"a UNet call of {name} took {took} s: this clock tells no time")
    return timed


def _rows(
    timed: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, int]], clock: Clock
) -> list[dict[str, Any]]:
    found = {row["variant"]: row for row in paired_savings(timed)}
    return [{**cost, **found[name], "clock": clock.name} for name, cost in costs.items()]
