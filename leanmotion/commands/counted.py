"""Arithmetic of a whole run, counted stage by stage, and what it takes on a card of a given speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leanmotion.commands.estimate import clips_to_draw, duration, training_clips
from leanmotion.cost.macs import frame_macs, macs_after, unet_macs
from leanmotion.influence.tables import macs_spent
from leanmotion.model.sampler import latent_shape, make_scheduler
from leanmotion.model.units import Unit, list_units, parameters
from leanmotion.pipeline.settings import GRANULARITIES, Settings

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline

_OF_V2 = {"parameters": 1.31e9, "pixels": 16 * 512 * 512}
"""The UNet with motion, and a clip, of which memory was measured (GiB at 1, 2 and 4 clips a micro-batch)."""
_MEASURED = {False: (10.7, 20.3), True: (8.4, 4.1)}
"""GiB for networks, gradients and optimiser, and for each clip of a micro-batch; recomputed or not."""


@dataclass(frozen=True)
class Calls:
    """Multiply-accumulates: of a UNet call on one clip, by unit and whole; of each block's call from it on; of decoding
    one frame.
    """

    units: Sequence[Unit]
    macs: dict[str, int]
    after: dict[str, int]
    frame: int
    parameters: int
    steps: int


def calls_of(pipeline: AnimateDiffPipeline, settings: Settings) -> Calls:
    """Count on meta tensors: nothing is computed."""
    unet, sampling = pipeline.unet, settings.sampling
    _, frames, height, width = latent_shape(pipeline, sampling)
    tokens = getattr(pipeline.tokenizer, "model_max_length", 77)
    size = {"frames": frames, "height": height, "width": width, "tokens": tokens}
    scheduler = make_scheduler(pipeline.scheduler, sampling.scheduler)
    scheduler.set_timesteps(sampling.steps)
    return Calls(
        list_units(unet), unet_macs(unet, **size), macs_after(unet, **size),
        frame_macs(pipeline.vae, height=height, width=width), parameters(unet), len(scheduler.timesteps),
    )  # fmt: skip


def flops(settings: Settings, calls: Calls) -> dict[str, float]:
    """Stage -> floating-point operations (two a multiply-accumulate) of the stages that draw, measure or train.

    Training counts as `estimate.training_clips` says: an upper bound, as students are lighter; activations that are
    computed twice add a quarter. Captions, features and encoding are not counted.
    """
    guided = 2 if settings.sampling.guidance > 1 else 1
    clip = calls.steps * guided * calls.macs["total"] + settings.sampling.frames * calls.frame
    found = {stage: float(count * clip) for stage, count in clips_to_draw(settings).items()}
    asked = settings.influence
    spent = macs_spent(
        calls.macs, calls.after, calls.units, calls=guided, steps=min(asked.steps, calls.steps), prompts=asked.prompts,
        sampled=calls.steps, clips=settings.prompts.rank,
    )  # fmt: skip
    found["similarity"] = float(settings.similarity.prompts * clip)
    found["influence"] = float(spent["macs_walk"] + sum(spent[f"macs_{name}"] for name in GRANULARITIES))
    found["distill"] = training_clips(settings) * clip
    return {stage: 2 * macs for stage, macs in found.items()}


def training_gib(settings: Settings, calls: Calls, *, recomputed: bool) -> float:
    """GiB at the peak of distillation, scaled from what was measured of the v2 UNet at 512 x 512 x 16 in bfloat16.

    Networks, gradients and optimiser go with parameters, activations with a micro-batch's pixels.
    """
    base, each = _MEASURED[recomputed]
    sampling, how = settings.sampling, settings.distillation
    pixels = sampling.frames * sampling.height * sampling.width / _OF_V2["pixels"]
    return base * calls.parameters / _OF_V2["parameters"] + each * pixels * how.batch / how.accumulate


def lines(settings: Settings, calls: Calls, tflops: float) -> list[str]:
    """What `leanmotion check --tflops` prints."""
    found = flops(settings, calls)
    total = sum(found.values())
    said = [f"counted: {total / 1e18:.3g} EFLOP; at {tflops:.3g} TFLOP/s achieved: {duration(total / tflops / 1e12)}"]
    said += [f"  {stage}: {duration(value / tflops / 1e12)}" for stage, value in found.items()]
    kept, again = (training_gib(settings, calls, recomputed=way) for way in (False, True))
    return [
        *said,
        f"memory while distilling: about {kept:.1f} GiB, {again:.1f} with LEANMOTION_GRADIENT_CHECKPOINTING=1 "
        "(scaled from the v2 UNet's in bfloat16 at 512 x 512 x 16, 31 and 12.5 GiB a clip)",
    ]


def counted_lines(settings: Settings, tflops: float) -> list[str]:
    """The same of the teacher's own networks, which are loaded to be counted."""
    from leanmotion.model.teacher import load_pipeline

    pipeline: Any = load_pipeline(settings.teacher)
    return lines(settings, calls_of(pipeline, settings), tflops)
