"""Measured time of UNet calls with and without blocks: interleaved, so that drift cancels."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Any

from leanmotion.cost.macs import unet_inputs, unet_macs
from leanmotion.cost.timing import FULL, NONE, measure_latency, paired_savings, without_variants
from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import without_units
from leanmotion.model.sampler import Sampler, latent_shape, one_thread_a_call
from leanmotion.model.units import block_ids, parameters
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.settings import Settings


def latency_rows(pipeline: Any, settings: Settings) -> list[dict[str, Any]]:
    """Artefact `profile`: the whole UNet (`full`), without each block, and without all of them (`none`).

    A call is what sampling makes of `profile.batch` clips: twice as many with guidance.
    """
    blocks = block_ids(pipeline.unet)
    return _measured(pipeline, settings, {FULL: (), **{block: (block,) for block in blocks}, NONE: tuple(blocks)})


def round_latency_rows(
    pipeline: Any, settings: Settings, rounds: Mapping[str, Sequence[str]], profile: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Artefact `latency`: the same for each round's deletions, beside what single removals foretold.

    Time does not depend on the values of weights: the original's serve.

    Args:
        pipeline: of the original.
        settings: all settings.
        rounds: round -> blocks that are gone after it.
        profile: block -> share of a call that its removal alone saves (`saving_fraction` of artefact `profile`).
    """
    variants = {FULL: (), **{k: tuple(v) for k, v in rounds.items()}, NONE: tuple(block_ids(pipeline.unet))}
    rows = _measured(pipeline, settings, variants)
    # Shares, not seconds: the two stages run minutes apart, and a machine's clock moves by a fifth in between.
    call = rows[0]["seconds"]
    return [{**row, "predicted": call * sum(profile[block] for block in variants[row["variant"]])} for row in rows]


def _measured(pipeline: Any, settings: Settings, variants: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    # As it samples: its attention, its compilation, and one thread a call where a chunk's shares lie side by side.
    sampler = Sampler(pipeline, settings.sampling, device())
    threads = one_thread_a_call() if sampler.lanes() > 1 else nullcontext()
    unet = pipeline.unet
    _, frames, height, width = latent_shape(pipeline, settings.sampling)
    size = {"frames": frames, "height": height, "width": width, "tokens": pipeline.tokenizer.model_max_length}
    clips = settings.profile.batch * (2 if settings.sampling.guidance > 1 else 1)
    inputs = unet_inputs(unet, **size, batch=clips, device=device())
    rounds, warmup = settings.profile.rounds, settings.profile.warmup
    with threads, closing(Progress("timing", (rounds + warmup) * len(variants), "pair")) as progress:
        timed = measure_latency(
            without_variants(unet, inputs, variants),
            rounds=rounds,
            warmup=warmup,
            seed=settings.profile.seed,
            synchronise=_synchronise(),
            progress=progress.update,
        )
    for row in timed:
        for name, took in ((row["variant"], row["seconds"]), (FULL, row["reference_seconds"])):
            if not (math.isfinite(took) and took > 0):
                raise LeanmotionError(f"a UNet call of {name} took {took} s: this clock tells no time")
    found = {row["variant"]: row for row in paired_savings(timed)}
    rows = []
    for name, removed in variants.items():
        with without_units(unet, removed):
            cost = {"parameters": parameters(unet), "macs": unet_macs(unet, **size, units=[])["total"]}
        rows.append({"blocks": len(removed), **cost, **found[name]})
    return rows


def _synchronise() -> Any:
    import torch

    return torch.cuda.synchronize if device().startswith("cuda") else None
