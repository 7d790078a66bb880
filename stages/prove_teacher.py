"""Measure the sprites teacher and reader: how often clips show what held-out captions say. `make teacher-check`."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from leanmotion.features.extractors import SpritesExtractor, load_extractor
from leanmotion.features.sprites_reader import SpriteReader
from leanmotion.model.removal import without_units
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline import stage
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.writing import write_text
from leanmotion.sprites.world import all_captions, held_out_captions
from leanmotion.sprites_training.proof import shares_read, with_intervals
from leanmotion.sprites_training.reader_training import accuracy
from leanmotion.sprites_training.recipe import Recipe

READER = "data/extractor"


def main(
    params: Path = Path("params.yaml"),
    clips: Annotated[int, typer.Option(min=24, help="generated clips of held-out captions")] = 256,
    out: Path = Path("metrics/teacher.json"),
) -> None:
    """Draw clips with all motion blocks and with none, read them, write the shares with their intervals."""
    settings = load_settings(params)
    torch.set_num_threads(settings.sampling.threads)
    extractor = load_extractor("sprites", path=READER)
    assert isinstance(extractor, SpritesExtractor)
    pipeline = load_pipeline(settings.teacher)
    sampler = Sampler(pipeline, settings.sampling, device())
    captions = [held_out_captions()[i % len(held_out_captions())] for i in range(clips)]
    requests = [Request(caption, settings.prompts.negative, 7_000_000 + i) for i, caption in enumerate(captions)]
    # Eight fresh clips of every caption.
    found = with_intervals("rendered", accuracy(SpriteReader.from_folder(READER), Recipe(), 8), 8 * len(all_captions()))
    found["clips"] = clips
    progress = Progress("teacher-check", 2 * clips)
    for name, removed in (("original", ()), ("removed", tuple(settings.teacher.blocks))):
        drawn: list[np.ndarray] = []
        with without_units(pipeline.unet, removed):
            for start in range(0, clips, settings.sampling.chunk):
                part = requests[start : start + settings.sampling.chunk]
                drawn.append(sampler(part))
                progress.update(len(part))
        found |= with_intervals(name, shares_read(extractor, np.concatenate(drawn), captions), clips)
    progress.close()
    write_text(out, json.dumps(found, indent=1) + "\n")
    for name in ("rendered", "original", "removed"):
        print(name, *(f"{head} {found[f'{name}_{head}']:.3f}" for head in ("colour", "shape", "motion")), sep="  ")


if __name__ == "__main__":
    stage.run(main)
