"""Influence in parts of a few clips, kept in the scratch store: a killed run goes on, and processes divide them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch

from leanmotion.errors import LeanmotionError
from leanmotion.influence.output_changes import output_changes
from leanmotion.influence.step_weights import calls_of, spread_over, step_weights, variances_of
from leanmotion.model.requests import Request, Variant
from leanmotion.model.sampler import make_scheduler, one_thread_a_call
from leanmotion.model.sampling_address import sampling_address
from leanmotion.model.units import list_units
from leanmotion.pipeline.code_address import code_address, library_versions
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.pieces import Pieces
from leanmotion.pipeline.processes import device, ranks
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import Sampling, Settings
from leanmotion.pipeline.tables import read_table, write_table

CHANGES = ("leanmotion.influence.output_changes:output_changes",)
"""What turns prompts into changes. All code that it reaches is part of a part's address."""


@dataclass(frozen=True)
class Measured:
    """What was measured: rows of `output_changes` over all prompts; by step, the variance along changes and the weight.

    `calls`: of the UNet for a clip, by the sampler.
    """

    changes: list[dict[str, Any]]
    variances: dict[int, float]
    weights: dict[int, float]
    calls: int


def measure(variant: Variant, load: Callable[[], Any], settings: Settings, requests: Sequence[Request]) -> Measured:
    """Changes of the output at the steps of the settings, and what steps weigh. Arguments as in `changes_of`."""
    sampling = settings.sampling
    scheduler = make_scheduler(load().scheduler, sampling.scheduler)
    calls = calls_of(scheduler, sampling.steps)
    changes = changes_of(variant, load, settings, requests, spread_over(calls, settings.influence.steps))
    variances = variances_of(changes)
    return Measured(changes, variances, step_weights(scheduler, sampling.steps, variances), calls)


def changes_of(
    variant: Variant, load: Callable[[], Any], settings: Settings, requests: Sequence[Request], steps: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of `output_changes` over all requests, `influence.batch` of them at a time; values in their order.

    Args:
        variant: whose units are taken out.
        load: gives its pipeline, in place and in eval mode; called where something is missing.
        settings: all settings.
        requests: clips whose trajectories are walked.
        steps: of the sampler.

    Raises:
        LeanmotionError: as `output_changes`; or a part is damaged, which is then deleted.
    """
    size = settings.influence.batch
    cuts = [tuple(requests[i : i + size]) for i in range(0, len(requests), size)]
    parts = {_address(variant, settings.sampling, cut, steps): cut for cut in cuts}
    pieces = Pieces(scratch_folder() / "influence")
    if ranks().agree(bool(pieces.missing(list(parts)))):
        _measure(load(), settings.sampling, parts, pieces, steps)
    ranks().dismiss()
    return _joined([_read(pieces, address) for address in parts])


def _address(variant: Variant, sampling: Sampling, requests: Sequence[Request], steps: Sequence[int]) -> str:
    what = {
        "weights": variant.weights,
        "removed": sorted(variant.removed),
        "dtype": variant.dtype,
        "sampling": sampling_address(sampling),
        "requests": [[r.prompt, r.negative if sampling.guidance > 1 else "", r.seed] for r in requests],
        "steps": list(steps),
        "code": code_address(*CHANGES),
        "libraries": library_versions(),
    }
    return values_digest(what)


def _measure(
    pipeline: Any, sampling: Sampling, parts: dict[str, tuple[Request, ...]], pieces: Pieces, steps: Sequence[int]
) -> None:
    missing = len(pieces.missing(list(parts))) / ranks().count
    calls = round(missing * (sampling.steps + len(steps) * (1 + len(list_units(pipeline.unet)))))
    with closing(Progress("influence", calls, "call")) as progress, _lanes(pipeline, sampling) as lanes:
        told, free = threading.Lock(), SimpleQueue[Any]()
        for unet in lanes:
            free.put(unet)

        def count(done: int) -> None:
            with told:
                progress.update(done)

        def make(address: str) -> None:
            unet = free.get()
            try:
                rows = output_changes(
                    pipeline, sampling, parts[address], steps, device=device(), unet=unet, progress=count
                )
            finally:
                free.put(unet)
            write_table(pieces.path(address), "changes", rows, meta={"address": address})

        pieces.make_together(list(parts), make, threads=len(lanes))


@contextmanager
def _lanes(pipeline: Any, sampling: Sampling) -> Iterator[list[Any]]:
    """UNets that are called side by side: on a CPU one a thread, as calls of small networks are too short to share.

    Units are taken out of each by itself. All have the same weights in memory. What is compiled uses all threads.
    """
    if torch.device(device()).type != "cpu" or sampling.torch_compile:
        yield [pipeline.unet]
        return
    unet, more = pipeline.unet, torch.get_num_threads() - 1
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    with one_thread_a_call():
        yield [unet, *(copy.deepcopy(unet, dict(shared)) for _ in range(more))]


def _read(pieces: Pieces, address: str) -> list[dict[str, Any]]:
    try:
        return read_table(pieces.path(address), "changes").to_pylist()
    except LeanmotionError as error:
        with suppress(OSError):
            pieces.path(address).unlink()
        raise LeanmotionError(f"{error} (deleted: run again)") from error


def _joined(parts: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {**rows[0], **{name: [value for row in rows for value in row[name]] for name in ("values", "along")}}
        for rows in zip(*parts, strict=True)
    ]
