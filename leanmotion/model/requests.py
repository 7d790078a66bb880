"""What is drawn: a variant of the model, and the prompts and seeds that it is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from leanmotion.pipeline.tables import read_frame


@dataclass(frozen=True)
class Request:
    """One clip to draw.

    Attributes:
        prompt: What it shows; truncated to the tokenizer's length.
        negative: What guidance leads away from; not read where guidance is 1.
        seed: Of the clip's own noise, on the CPU, whatever is drawn beside it.
    """

    prompt: str
    negative: str
    seed: int


Draw = Callable[[Sequence[Request]], UInt8[np.ndarray, "clips frames height width 3"]]
"""Requests to clips: a sampler of one variant."""


@dataclass(frozen=True)
class Variant:
    """What is sampled: the weights by SHA-256, and the units removed from them."""

    weights: str
    removed: tuple[str, ...] = ()
    dtype: str = "float32"


def requests_of(prompts: Path, split: str, seeds: str) -> list[Request]:
    """A split's requests in order, with seeds `a` or `b`, from the folder of prompt tables."""
    rows = read_frame(prompts / f"{split}.parquet", "prompts")
    return [
        Request(prompt, negative, int(seed))
        for prompt, negative, seed in zip(rows["prompt"], rows["negative"], rows[f"seed_{seeds}"], strict=True)
    ]
