"""`leanmotion check`: are settings and files fit for a run, and what will it draw, store and take."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from leanmotion.checking.refusals import Opened, refuse
from leanmotion.checking.remarks import remarks
from leanmotion.commands import estimate
from leanmotion.pipeline.params_file import refuse_unwritten
from leanmotion.pipeline.settings import Settings, load_settings
from leanmotion.pipeline.sources import refuse_missing


def lines(params: Path, *, measure: bool = False, tflops: float = 0.0) -> Iterator[str]:
    """What `leanmotion check` prints, as it is found.

    Args:
        params: the settings.
        measure: whether to draw one chunk, and say how long a run takes here.
        tflops: TFLOP/s of a card to count a run for; 0: none.

    Raises:
        LeanmotionError: what a later stage would stop at, by settings and files alone.
    """
    settings = load_settings(params)
    stages = refuse_unwritten(params)
    # What settings alone tell comes first: whoever has no weights yet wants to know what they are in for.
    yield from _to_draw(settings)
    refuse_missing()
    if tflops:
        from leanmotion.commands.counted import counted_lines

        yield from counted_lines(settings, tflops)
    opened = refuse(settings)
    yield f"{params}: valid; all {stages} stages of dvc.yaml (families count once) find their settings and files"
    yield from _read(opened)
    yield from remarks(opened)
    if measure:
        yield from _measured(settings, opened)
    else:
        yield "time and memory: not known yet; `leanmotion check --measure` draws one chunk of clips to tell"


def _read(opened: Opened) -> Iterator[str]:
    """What the settings name: teacher, prompts, extractor."""
    chosen, extractor, files = opened.settings, opened.extractor, opened.files.values()
    size = estimate.size(sum(file.stat().st_size for file in files))
    yield f"teacher (the model to make lighter): {len(chosen.teacher.blocks)} motion blocks; {len(files)} files, {size}"
    rounds = ", ".join(chosen.rounds)
    yield f"rounds of deletion: {len(chosen.rounds)} ({rounds}); the pipeline chooses one of them"
    yield f"prompts: {len(opened.prompts)} different ones in {chosen.prompts.source}"
    new = len(set(opened.confirming) - set(opened.prompts))
    others, source = len(opened.confirming), chosen.prompts.confirm_source
    if chosen.prompts.confirm:
        which = "all of them new" if new == others else f"{new} of them new" if new else "the same ones, with new seeds"
        yield f"prompts that confirm the choice at the end: {others} in {source}, {which}"
    named = f"{extractor.name}, {extractor.dimensions} features"
    yield f"extractor (makes of clips the features that FVD compares): {named}"
    yield (
        "  these are the I3D weights of papers: FVDs can be compared with published ones"
        if extractor.official
        else "  these FVDs are not those of papers, which use an I3D network: compare them with one another only"
    )


def _to_draw(settings: Settings) -> Iterator[str]:
    counts = estimate.clips_to_draw(settings)
    named = ", ".join(f"{stage} {n}" for stage, n in counts.items())
    yield f"clips to draw, where none is stored yet: {sum(counts.values())} ({named})"
    raw, low, high = (estimate.size(n) for n in estimate.video_bytes(settings))
    free = estimate.size(shutil.disk_usage(Path.cwd()).free)
    yield f"disk: {low} to {high} for videos, {free} are free"
    yield f"  ({raw} of frames, compressed without loss, stored twice: .scratch/chunks and DVC's cache)"


def _measured(settings: Settings, opened: Opened) -> Iterator[str]:
    speed = estimate.measure_speed(settings, opened.pipeline)
    taken = estimate.seconds(settings, speed)
    yield f"memory: {estimate.size(speed.peak_bytes)} at peak while drawing, on {speed.device}"
    chunk = settings.sampling.chunk
    yield f"time: {estimate.duration(speed.clip_seconds * chunk)} for a chunk of {chunk} clips, measured"
    whole = estimate.duration(sum(taken.values()))
    yield f"  a whole run: about {whole} of drawing and training, worked out from it"
    yield from (f"  {stage}: {estimate.duration(value)}" for stage, value in taken.items())
