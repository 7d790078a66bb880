"""A batch cut into shares that are computed side by side, a core each: how a CPU trains and draws.

A call that is spread over cores ends at a barrier, where threads spin until the last has come. The calls of small
networks are too short to share; and beside any other busy process a thread waits there, its core busy for nothing, for
one that has no core. Shares meet once a pass instead, and wait asleep.

Two lanes are, bit for bit, one thread with twice as many micro-batches: another number of threads groups sums anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from leanmotion.distillation.losses import TERMS, Batch, Losses, LossWeights, comparison, losses

_Share = TypeVar("_Share")


@dataclass(frozen=True)
class Lanes:
    """How many shares are computed at once, and the threads that do it; with one lane all is computed as a whole."""

    count: int = 1
    pool: ThreadPoolExecutor | None = None

    def backward(
        self,
        student: nn.Module,
        teacher: nn.Module,
        batch: Batch,
        weights: LossWeights,
        autocast: Callable[[], Any],
        factor: Tensor,
    ) -> Losses:
        """`losses` of a batch; adds the gradient of their total, times `factor`, to the student's parameters.

        Shares count by their rows. Gradients are added in the order of shares, whichever comes first.
        """
        cuts = self._cut(len(batch.noisy))
        if len(cuts) == 1:
            found = losses(student, teacher, batch, weights, autocast)
            found.total.backward(factor)
            return found
        parameters = [p for p in student.parameters() if p.requires_grad]
        parts = [(rows.stop - rows.start) / len(batch.noisy) for rows in cuts]

        with comparison(student, teacher, weights, autocast) as compare:

            def work(rows: slice, part: float) -> tuple[Losses, Sequence[Tensor | None]]:
                found = compare(_share(batch, rows))
                # Not `backward`: all shares would add to the same `.grad`, in the order in which they come.
                gradients = torch.autograd.grad(found.total, parameters, factor * part, allow_unused=True)
                return _detached(found), gradients

            results = self._map(work, cuts, parts)
        for parameter, *gradients in zip(parameters, *(gradients for _, gradients in results), strict=True):
            for gradient in gradients:
                if gradient is not None:
                    # `backward` lays a gradient out like its parameter, too; AdamW is slow where the two differ.
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad += gradient
        return _joined([found for found, _ in results], parts, weights)

    def drawing(self, unet: Callable[..., Any], autocast: Callable[[], Any]) -> Callable[..., Any]:
        """The network as samplers call it, without gradients, each call cut into shares."""
        if self.count == 1:
            return unet

        def call(sample: Tensor, timestep: Tensor, *, encoder_hidden_states: Tensor, **how: Any) -> tuple[Tensor]:
            def work(rows: slice) -> Tensor:
                states = _frames(encoder_hidden_states, rows, len(sample))
                with torch.no_grad(), autocast():  # of the caller's thread both say nothing here
                    return unet(sample[rows], timestep, encoder_hidden_states=states, **how)[0]

            return (torch.cat(self._map(work, self._cut(len(sample)))),)

        return call

    def _cut(self, rows: int) -> list[slice]:
        """Rows in as many runs as there are lanes, the first ones longer by one where it does not come out even."""
        count = min(self.count, rows)
        ends = [(lane * rows + count - 1) // count for lane in range(count + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def _map(self, work: Callable[..., _Share], *shares: Sequence[Any]) -> list[_Share]:
        assert self.pool is not None
        return list(self.pool.map(work, *shares))


@contextmanager
def side_by_side(device: torch.device, clips: int) -> Iterator[Lanes]:
    """Divide the threads that a call has now among as many lanes as a micro-batch of so many clips fills.

    Args:
        device: where networks are; a GPU is one lane.
        clips: of a micro-batch. Where they are fewer than threads, a lane has several.
    """
    threads = torch.get_num_threads()
    count = min(threads, clips) if device.type == "cpu" else 1
    if count == 1:
        yield Lanes()
        return
    each = threads // count
    torch.set_num_threads(each)
    try:
        # A new thread takes the number over at its first call, but not if that call is one of MKL.
        with ThreadPoolExecutor(count, "lane", torch.set_num_threads, (each,)) as pool:
            yield Lanes(count, pool)
    finally:
        torch.set_num_threads(threads)


def _share(batch: Batch, rows: slice) -> Batch:
    target = None if batch.target is None else batch.target[rows]
    return Batch(batch.noisy[rows], target, batch.timesteps[rows], _frames(batch.captions, rows, len(batch.noisy)))


def _frames(states: Tensor, rows: slice, clips: int) -> Tensor:
    frames = len(states) // clips
    return states[rows.start * frames : rows.stop * frames]


def _detached(found: Losses) -> Losses:
    raw = {name: None if value is None else value.detach() for name, value in found.raw.items()}
    return Losses(raw, found.weights, found.student.detach(), found.teacher)


def _joined(shares: Sequence[Losses], parts: Sequence[float], weights: LossWeights) -> Losses:
    raw: dict[str, Tensor | None] = {}
    for name in TERMS:
        values = [value for share in shares if (value := share.raw[name]) is not None]
        raw[name] = torch.stack([v * part for v, part in zip(values, parts, strict=True)]).sum() if values else None
    teachers = [share.teacher for share in shares if share.teacher is not None]
    student = torch.cat([share.student for share in shares])
    return Losses(raw, weights, student, torch.cat(teachers) if teachers else None)
