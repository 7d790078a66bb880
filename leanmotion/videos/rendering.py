"""Variants -> tables of videos, by way of the chunk store."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from leanmotion.model.requests import Draw, Variant, requests_of
from leanmotion.pipeline.dvc import running_command, will_run
from leanmotion.pipeline.processes import ranks
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.setting_address import addressed
from leanmotion.pipeline.settings import Sampling, Settings
from leanmotion.pipeline.tables import TableWriter
from leanmotion.videos.store import Chunk, ChunkStore, cut

_POLL_SECONDS = 1.0
"""Between looks at the store while other processes draw what is left."""


@dataclass(frozen=True)
class Take:
    """One row group of a video table: a named variant on one split with one of its two seed sets.

    `count`: its first so many prompts; all where it is None.
    """

    name: str
    variant: Variant
    split: str
    seeds: str = "a"
    count: int | None = None


def render(
    takes: Sequence[Take],
    out: Path,
    *,
    prompts: Path,
    settings: Settings,
    samplers: Callable[[Variant], Draw],
    label: str,
    stage: str = "",
    siblings: Callable[[], Mapping[str, Sequence[Take]]] | None = None,
) -> None:
    """Draw what the store lacks and write all takes into one video table.

    A stage that had to load networks to draw its own then draws ahead for its siblings, as far as the running `dvc` is
    sure to ask for them: they need no network any more.

    Args:
        takes: What to draw, one row group each.
        out: The video table.
        prompts: The folder of prompt tables.
        settings: All settings.
        samplers: Makes the sampler of a variant; called only for variants that miss chunks.
        label: For the progress bar.
        stage: This one's name in dvc.yaml.
        siblings: Stage -> its takes, made when they are to be drawn; this one may be among them.
    """
    jobs = _jobs(takes, prompts, settings)
    if fill_together(jobs, samplers, label=label) and siblings and running_command():
        _draw_ahead(stage, siblings(), prompts, settings, samplers)
    ranks().dismiss()
    merge(jobs, out, settings.sampling)


def _jobs(takes: Sequence[Take], prompts: Path, settings: Settings) -> list[tuple[Take, list[Chunk]]]:
    return [
        (take, cut(take.variant, requests_of(prompts, take.split, take.seeds)[: take.count], settings.sampling))
        for take in takes
    ]


def _draw_ahead(
    stage: str,
    siblings: Mapping[str, Sequence[Take]],
    prompts: Path,
    settings: Settings,
    samplers: Callable[[Variant], Draw],
) -> None:
    """Draw the missing chunks of other stages. What fails there is a warning here, and an error in its own stage."""
    store, together = ChunkStore(), ranks()
    for name in together.agree(will_run(list(siblings), stage) if together.main else None):
        try:
            jobs = _jobs(siblings[name], prompts, settings)
            missing = store.missing([chunk for _, chunks in jobs for chunk in chunks])
            ours = together.divide([chunk.address for chunk in missing])
            share = [(take, [chunk for chunk in chunks if chunk.address in ours]) for take, chunks in jobs]
            fill(share, samplers, label=f"{name}, ahead")
        except Exception as error:
            print(f"warning: drawing ahead for {name}: {error}: left to that stage", file=sys.stderr, flush=True)
    together.wait()


def fill_together(jobs: Sequence[tuple[Take, list[Chunk]]], samplers: Callable[[Variant], Draw], *, label: str) -> bool:
    """Draw the chunks that the store lacks, each rank its share; return when all are there: whether any was missing."""
    store, together = ChunkStore(), ranks()
    missing = store.missing([chunk for _, chunks in jobs for chunk in chunks])
    ours = together.divide([chunk.address for chunk in missing])
    fill([(take, [c for c in chunks if c.address in ours]) for take, chunks in jobs], samplers, label=label)
    together.wait()
    if together.count > 1 and together.main:
        # Nothing, as a rule: what another machine wrote may be seen late, or be damaged.
        fill(jobs, samplers, label=label)
    return together.agree(bool(missing))


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
    # A setting that is as before there was one does not tell these clips from those of before.
    drawn = json.dumps(addressed(sampling), separators=(",", ":"))
    with TableWriter(out, "videos", {"sampling": drawn}) as writer:
        for take, chunks in jobs:
            rows: list[dict[str, Any]] = []
            for chunk in chunks:
                for row in store.videos(chunk):
                    rows.append(
                        {"variant": take.name, "split": take.split, "seeds": take.seeds, "index": len(rows),
                         "removed": list(take.variant.removed), **row}
                    )  # fmt: skip
            writer.write(rows)
