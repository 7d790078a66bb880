"""What is drawn: a variant of the model, and the prompts and seeds that it is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8


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
    from leanmotion.pipeline.tables import read_frame  # not at the top: drawing by hand needs no tables

    rows = read_frame(prompts / f"{split}.parquet", "prompts")
    return [
        Request(prompt, negative, int(seed))
        for prompt, negative, seed in zip(rows["prompt"], rows["negative"], rows[f"seed_{seeds}"], strict=True)
    ]


def cut_prompts(tokenizer: Any, prompts: Sequence[str]) -> tuple[list[str], int]:
    """Prompts of which the text encoder reads the beginning alone, and how many of all are then as another one is.

    Args:
        tokenizer: of the base.
        prompts: each once.
    """
    most, asked = tokenizer.model_max_length, {"truncation": False, "verbose": False}
    tokens = [tuple(ids) for ids in tokenizer(list(prompts), **asked).input_ids] if prompts else []
    # The last token tells the end, also of what is cut.
    read = [ids if len(ids) <= most else (*ids[: most - 1], ids[-1]) for ids in tokens]
    return [prompt for prompt, ids in zip(prompts, tokens, strict=True) if len(ids) > most], len(read) - len(set(read))


def cut_remarks(what: str, prompts: Sequence[str], tokenizer: Any) -> list[str]:
    """A line that says how many prompts are cut, and names the first; none where none is.

    Args:
        what: they are called.
        prompts: each once.
        tokenizer: of the base.
    """
    cut, same = cut_prompts(tokenizer, prompts)
    if not cut:
        return []
    said = f"{what}: {len(cut)} of {len(prompts)} cut at the {tokenizer.model_max_length} tokens that are read of one"
    return [said + (f"; {same} then the same as another" if same else "") + f". The first: {cut[0][:60]}..."]
