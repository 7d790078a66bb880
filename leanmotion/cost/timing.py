"""Measured time of calls: interleaved with calls of a reference, so that drift cancels."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from leanmotion.model.removal import without_units

FULL, NONE = "full", "none"
"""Names of the variants without any removal, and without any motion module: the ceiling of any gain."""

Timed = Callable[[], AbstractContextManager[Callable[[], object]]]
"""A context that yields the call to time."""


def _nothing() -> None: ...


def _difference(start: float, end: float) -> float:
    return end - start


@dataclass(frozen=True)
class Clock:
    """How time is told on a device.

    Attributes:
        name: `processor`, `wall` or `cuda`: column `clock` of the tables.
        now: seconds, on the host: of whole calls, read after `wait`.
        wait: returns once the device has done all that it was asked.
        mark: takes a moment inside a call, without waiting for the device where it can.
        between: seconds from one mark to a later one, asked after `wait`.
    """

    name: str
    now: Callable[[], float]
    wait: Callable[[], object] = _nothing
    mark: Callable[[], Any] = time.perf_counter
    between: Callable[[Any, Any], float] = _difference


def device_clock(device: str) -> Clock:
    """The clock for calls on a device, from this thread, with the threads that a call has now.

    On a GPU events of its own stream. On a CPU, where a call keeps to one thread, that thread's processor time: on an
    idle core it is the time on the wall, and beside other work it leaves out the turns of others. By a wall clock a
    block of 1 ms mostly falls between two such turns while the call around it meets several, so that medians of blocks
    would not add up to what calls lose (LOG.md). Where a call has more threads they wait for each other: the wall's.
    """
    if device.startswith("cuda"):
        # Of the device by name: the current one may be another.
        stream = torch.cuda.current_stream(device)
        return Clock(
            "cuda", time.perf_counter, lambda: torch.cuda.synchronize(device), lambda: _event(stream), _event_seconds
        )
    if device == "mps":
        # Events there tell apart no two calls that torch has sent together: the device is waited for at each mark. What
        # that costs stands on `Skip` as well, and goes with it (`Watched`).
        return Clock("wall", time.perf_counter, torch.mps.synchronize, _after_mps)
    if device == "cpu" and torch.get_num_threads() == 1 and _is_fine(time.thread_time):
        return Clock("processor", time.thread_time, mark=time.thread_time)
    return Clock("wall", time.perf_counter)


def _event(stream: Any) -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event


def _event_seconds(start: Any, end: Any) -> float:
    return start.elapsed_time(end) / 1e3


def _after_mps() -> float:
    torch.mps.synchronize()
    return time.perf_counter()


def _is_fine(clock: Callable[[], float]) -> bool:
    """Whether a clock moves in steps far below a block's time: Windows counts a thread's in ticks of 16 ms."""
    until = time.perf_counter() + 0.1
    start = now = clock()
    while now == start and time.perf_counter() < until:
        now = clock()
    return 0 < now - start < 1e-4


def without_variants(
    unet: nn.Module, inputs: Mapping[str, torch.Tensor], removals: Mapping[str, Sequence[str]]
) -> dict[str, Timed]:
    """Calls of one UNet for `measure_latency`, each without some of its units.

    Args:
        unet: a `diffusers.UNetMotionModel` in eval mode; units are out only while a variant is open.
        inputs: keyword arguments of a call, e.g. of `unet_inputs`.
        removals: name -> ids of units.
    """

    def variant(removed: Sequence[str]) -> Timed:
        @contextmanager
        def opened() -> Iterator[Callable[[], object]]:
            with torch.inference_mode(), without_units(unet, removed):  # as sampling calls it
                yield lambda: unet(**inputs, return_dict=False)

        return opened

    return {name: variant(removed) for name, removed in removals.items()}


def measure_latency(
    variants: Mapping[str, Timed],
    *,
    rounds: int,
    reference: str = FULL,
    warmup: int = 1,
    seed: int = 0,
    synchronise: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int], object] | None = None,
) -> list[dict[str, Any]]:
    """Times every variant once a round, right after a call of the reference, in a new random order each round.

    Each has a reference call of its own: one for all of a round would put its error into every saving, and into a sum
    over blocks as often as there are blocks. The reference itself is timed like any other: what it saves is noise.

    Args:
        variants: by name, contexts that yield the call to time; entering and leaving them is not timed.
        rounds: measured ones.
        reference: name of the variant that the others are compared with.
        warmup: rounds before them that are not recorded.
        seed: of the orders.
        synchronise: waits for the device, e.g. `torch.cuda.synchronize`; None on a CPU.
        clock: in seconds.
        progress: told after every variant, outside what is timed.

    Returns:
        Rows with variant, round (from 0), seconds, and reference_seconds of the call right before; in order of
        measurement.

    Raises:
        ValueError: no variants, no rounds, no such reference, or a negative warm-up.
    """
    if reference not in variants or rounds < 1 or warmup < 0:
        raise ValueError(
            f"cannot time {len(variants)} variants against {reference} in {rounds} rounds after {warmup} of warm-up"
        )
    wait = synchronise or (lambda: None)

    def timed(name: str) -> float:
        with variants[name]() as call:
            wait()
            start = clock()
            call()
            wait()
            return clock() - start

    shuffler = random.Random(seed)
    rows = []
    for number in range(-warmup, rounds):
        names = list(variants)
        shuffler.shuffle(names)
        for name in names:
            before = timed(reference)
            row = {"variant": name, "round": number, "seconds": timed(name), "reference_seconds": before}
            if number >= 0:
                rows.append(row)
            if progress is not None:
                progress(1)
    return rows


def paired_savings(rows: Sequence[Mapping[str, Any]], reference: str = FULL) -> list[dict[str, Any]]:
    """What each variant saves against the reference call right before it, so that drift cancels.

    Args:
        rows: of `measure_latency`.
        reference: name of the variant that it compared with.

    Returns:
        Rows with variant, rounds, seconds (median time of a call), saving (median difference, seconds; positive where
        the variant is faster), saving_low and saving_high (its quartiles over rounds), saving_fraction (median share
        of the reference's call); the reference first, the others by name.

    Raises:
        KeyError: the reference was not measured.
    """
    times: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        times.setdefault(row["variant"], []).append((row["reference_seconds"], row["seconds"]))
    if reference not in times:
        raise KeyError(reference)
    # The order of the rows is shuffled: names are sorted, so that tables of two runs have the same order.
    return [_saving(name, times[name]) for name in [reference, *sorted(set(times) - {reference})]]


def _saving(name: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    before, seconds = np.array(times).T
    low, middle, high = (float(value) for value in np.quantile(before - seconds, [0.25, 0.5, 0.75]))
    return {
        "variant": name,
        "rounds": len(times),
        "seconds": float(np.median(seconds)),
        "saving": middle,
        "saving_low": low,
        "saving_high": high,
        "saving_fraction": float(np.median(1 - seconds / before)),
    }
