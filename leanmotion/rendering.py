"""Variants -> tables of videos, by way of the chunk store."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import UInt8

from leanmotion.chunks import Chunk, ChunkStore, Draw, Variant, cut
from leanmotion.errors import LeanmotionError
from leanmotion.progress import Progress
from leanmotion.ranks import ranks
from leanmotion.sampling import Request
from leanmotion.settings import Sampling, Settings
from leanmotion.tables import TableWriter, read_frame, stream_table
from leanmotion.video import decode

_POLL_SECONDS = 1.0
"""Between looks at the store while other processes draw what is left."""


@dataclass(frozen=True)
class Take:
    """One row group of a video table: a named variant on one split with one of its two seed sets."""

    name: str
    variant: Variant
    split: str
    seeds: str = "a"


@dataclass(frozen=True)
class Clips:
    """The clips of one take, decoded. `frames`: uint8 [clips, frames, height, width, 3]."""

    name: str
    split: str
    seeds: str
    removed: tuple[str, ...]
    rows: pd.DataFrame
    frames: UInt8[np.ndarray, "clips frames height width 3"]


def requests_of(prompts: Path, split: str, seeds: str) -> list[Request]:
    """A split's requests in order, with seeds `a` or `b`, from the folder of prompt tables."""
    rows = read_frame(prompts / f"{split}.parquet", "prompts")
    return [
        Request(prompt, negative, int(seed))
        for prompt, negative, seed in zip(rows["prompt"], rows["negative"], rows[f"seed_{seeds}"], strict=True)
    ]


def render(
    takes: Sequence[Take],
    out: Path,
    *,
    prompts: Path,
    settings: Settings,
    samplers: Callable[[Variant], Draw],
    label: str,
) -> None:
    """Draw what the store lacks and write all takes into one video table.

    Args:
        takes: What to draw, one row group each.
        out: The video table.
        prompts: The folder of prompt tables.
        settings: All settings.
        samplers: Makes the sampler of a variant; called only for variants that miss chunks.
        label: For the progress bar.
    """
    jobs = [
        (take, cut(take.variant, requests_of(prompts, take.split, take.seeds), settings.sampling)) for take in takes
    ]
    fill_together(jobs, samplers, label=label)
    ranks().dismiss()
    merge(jobs, out, settings.sampling)


def fill_together(jobs: Sequence[tuple[Take, list[Chunk]]], samplers: Callable[[Variant], Draw], *, label: str) -> None:
    """Draw the chunks that the store lacks, each rank its share; return when all are there."""
    store, together = ChunkStore(), ranks()
    missing = store.missing([chunk for _, chunks in jobs for chunk in chunks])
    ours = together.divide([chunk.address for chunk in missing])
    fill([(take, [c for c in chunks if c.address in ours]) for take, chunks in jobs], samplers, label=label)
    together.wait()
    if together.count > 1 and together.main:
        # Nothing, as a rule: what another machine wrote may be seen late, or be damaged.
        fill(jobs, samplers, label=label)


def fill(jobs: Sequence[tuple[Take, list[Chunk]]], samplers: Callable[[Variant], Draw], *, label: str) -> None:
    """Draw the chunks that the store lacks, one variant after the other; return when all are there.

    Several processes at it, on any machines that share the store, divide the chunks among them. What others draw is
    waited for, and drawn here if they die.
    """
    store = ChunkStore()
    by_variant: dict[Variant, list[Chunk]] = {}
    for take, chunks in jobs:
        by_variant.setdefault(take.variant, []).extend(store.missing(chunks))
    total = left = sum(_clips_in(store.missing(chunks)) for chunks in by_variant.values())
    with closing(Progress(label, total)) as progress:
        while left:
            ours = 0
            for variant, chunks in by_variant.items():
                for chunk in store.fill(chunks, _when_needed(samplers, variant)):
                    progress.update(len(chunk.requests))
                    ours += len(chunk.requests)
            by_variant = {v: missing for v, chunks in by_variant.items() if (missing := store.missing(chunks))}
            before, left = left - ours, sum(_clips_in(chunks) for chunks in by_variant.values())
            progress.update(max(before - left, 0))  # by others
            if left and not ours:
                time.sleep(_POLL_SECONDS)


def _clips_in(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.requests) for chunk in chunks)


def _when_needed(samplers: Callable[[Variant], Draw], variant: Variant) -> Draw:
    """The variant's sampler, made when the first chunk is ours to draw."""
    made = cache(lambda: samplers(variant))
    return lambda requests: made()(requests)


def merge(jobs: Sequence[tuple[Take, list[Chunk]]], out: Path, sampling: Sampling) -> None:
    """Put stored chunks into one video table, in order."""
    store = ChunkStore()
    with TableWriter(out, "videos", {"sampling": sampling.model_dump_json()}) as writer:
        for take, chunks in jobs:
            rows: list[dict[str, Any]] = []
            for chunk in chunks:
                for row in store.videos(chunk):
                    rows.append(
                        {"variant": take.name, "split": take.split, "seeds": take.seeds, "index": len(rows),
                         "removed": list(take.variant.removed), **row}
                    )  # fmt: skip
            writer.write(rows)


def read_clips(path: str | Path) -> list[Clips]:
    """Decode a video table, take by take.

    Raises:
        LeanmotionError: Missing or damaged.
    """
    return [_clips(group) for group in stream_table(path, "videos")]


def find_clips(path: str | Path, **wanted: str) -> Clips:
    """The one take of a table with the wanted `variant`, `split` and `seeds`, decoded; others are not.

    Raises:
        LeanmotionError: None or several fit.
    """
    fits = [group for group in stream_table(path, "videos") if all(group[k][0].as_py() == v for k, v in wanted.items())]
    if len(fits) != 1:
        raise LeanmotionError(f"{path}: {len(fits)} takes fit {dict(wanted)}, not one: `dvc repro` makes it anew")
    return _clips(fits[0])


def require_pairs(
    reference: Mapping[str, Any] | pd.DataFrame,
    other: Mapping[str, Any] | pd.DataFrame,
    *,
    name: str = "videos",
    same_seeds: bool = True,
) -> None:
    """Refuse to compare clips of other prompts, seeds or number.

    Args:
        reference: Columns `prompt` and `seed` of the clips compared with.
        other: The same of the clips to compare.
        name: What these are, for the message.
        same_seeds: False for the null, which is drawn from the same prompts with other seeds.

    Raises:
        LeanmotionError: They are not drawn from the same requests.
    """
    if len(reference["prompt"]) != len(other["prompt"]):
        counts = f"{len(other['prompt'])} clips, the reference {len(reference['prompt'])}"
        raise LeanmotionError(f"{name}: has {counts}: videos differ in number, which no distance allows; `dvc repro`")
    for column in ("prompt", "seed") if same_seeds else ("prompt",):
        for i, (one, two) in enumerate(zip(reference[column], other[column], strict=True)):
            if one != two:
                raise LeanmotionError(
                    f"{name}: videos differ in {column}, first clip {i} ({one!r}, {two!r}): "
                    "they cannot be compared pair by pair; `dvc repro`"
                )


def _clips(group: pa.Table) -> Clips:
    rows = group.drop_columns(["video"]).to_pandas()
    first = rows.iloc[0]
    frames = np.stack([decode(value.as_py()) for value in group["video"]])
    return Clips(first["variant"], first["split"], first["seeds"], tuple(first["removed"]), rows, frames)
