"""`leanmotion generate`: one clip with a pruned adapter, by the sampler that judged it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pydantic import ValidationError

from leanmotion.errors import LeanmotionError
from leanmotion.model.pruned_adapter import read_pruned_config
from leanmotion.pipeline.setting_errors import first_problem
from leanmotion.pipeline.settings import Sampling, Settings

Clip = UInt8[np.ndarray, "frames height width 3"]


def draw_clips(
    settings: Settings, prompt: str, seed: int, *, adapter: Path, base: str, compare: bool, asked: Mapping[str, Any]
) -> list[Clip]:
    """The clip of a prompt and a seed; with `compare` the teacher's of the same noise before it.

    Drawn by the sampler of `dvc repro`: what the adapter's folder says of how it was judged comes first, then
    `sampling` of the settings; the teacher's dtype, on the device of this machine. A prompt of which the text encoder
    reads the beginning alone is drawn, with a line on standard error.

    Args:
        settings: all settings.
        prompt: what to draw.
        seed: of the noise.
        adapter: a pruned adapter's folder.
        base: a folder, single file, pin or hub id instead of `teacher.base`; empty for none.
        compare: whether to draw the teacher too.
        asked: settings of `sampling` that the caller names; None where not.

    Raises:
        LeanmotionError: something does not load or fit, or cannot be drawn at that size.
    """
    config = read_pruned_config(adapter)
    judged = config.get("sampling", {})
    sampling = sampling_of(settings.sampling, judged, asked)
    longest = config["motion_adapter"]["motion_max_seq_length"]
    if sampling.frames > longest:
        raise LeanmotionError(f"--frames {sampling.frames}: {adapter} has positions for at most {longest}")
    import torch

    from leanmotion.model.pruned_adapter import load_pruned_pipeline
    from leanmotion.model.requests import Request, cut_remarks
    from leanmotion.model.sampler import Sampler, latent_shape
    from leanmotion.model.teacher import load_base, load_pipeline
    from leanmotion.model.weights import locate
    from leanmotion.pipeline.processes import device

    torch.set_num_threads(sampling.threads)
    dtype, own = getattr(torch, settings.teacher.dtype), load_base(settings.teacher) if compare or not base else None
    there = locate(base, role="base") if base and Path(base).exists() else base
    pruned = load_pruned_pipeline(adapter, base=there or own, torch_dtype=dtype)
    latent_shape(pruned, sampling)
    for line in cut_remarks("--prompt", [prompt], pruned.tokenizer):
        print(line, file=sys.stderr)
    pipelines: list[Any] = [pruned]
    if compare:
        teacher = load_pipeline(settings.teacher, own)
        teacher.register_modules(scheduler=pruned.scheduler)
        pipelines.insert(0, teacher)
    request = Request(prompt, judged.get("negative", settings.prompts.negative), seed)
    return [Sampler(pipeline, sampling, device())([request])[0] for pipeline in pipelines]


def sampling_of(sampling: Sampling, judged: Mapping[str, Any], asked: Mapping[str, Any]) -> Sampling:
    """How to draw one clip: as asked, else as the adapter was judged, else as the settings say.

    Raises:
        LeanmotionError: what is asked is out of range.
    """
    carried = {name: judged[name] for name in ("frames", "height", "width", "steps", "guidance") if name in judged}
    given = {name: value for name, value in asked.items() if value is not None}
    # A folder that says how it was judged gives the pipeline its scheduler.
    scheduler = {"scheduler": "base"} if judged else {}
    try:
        return Sampling.model_validate({**sampling.model_dump(), **carried, **given, **scheduler, "chunk": 1})
    except ValidationError as error:
        raise LeanmotionError(f"--{first_problem(error, Sampling)}") from error
