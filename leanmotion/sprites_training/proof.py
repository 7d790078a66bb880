"""How well the committed teacher and reader do: the shares that `metrics/teacher.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from leanmotion.features.extractors import SpritesExtractor
from leanmotion.sprites.world import parse_caption
from leanmotion.sprites_training.reader_training import HEADS


def shares_read(extractor: SpritesExtractor, clips: NDArray[np.uint8], captions: Sequence[str]) -> dict[str, float]:
    """Head name -> share of clips off which the extractor reads what their captions say.

    Args:
        extractor: the committed reader.
        clips: [n, frames, height, width, 3].
        captions: n captions of the world.
    """
    scenes = [parse_caption(caption) for caption in captions]
    found = extractor.read(clips)
    return {head: float(np.mean(found[head] == [getattr(scene, head) for scene in scenes])) for head in HEADS}


def with_intervals(name: str, shares: Mapping[str, float], clips: int, interval: float = 0.9) -> dict[str, float]:
    """`<name>_<head>`, and `_low` and `_high` of Wilson's interval for a share of so many clips."""
    found: dict[str, float] = {}
    for head, share in shares.items():
        between = binomtest(round(share * clips), clips).proportion_ci(interval, method="wilson")
        values = {"": share, "_low": float(between.low), "_high": float(between.high)}
        found |= {f"{name}_{head}{end}": round(value, 4) for end, value in values.items()}
    return found
