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

_Input = TypeVar("_Input")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Lanes:
    """How many shares are computed at once, and the threads that do it; with one lane all is computed as a whole."""

    count: int = 1
    pool: ThreadPoolExecutor | None = None

    def backward(
        self,
        parameters: Sequence[nn.Parameter],
        rows: int,
        take: Callable[[slice], _Input],
        loss: Callable[[_Input], tuple[Tensor, _Found]],
        factor: Tensor,
    ) -> list[tuple[_Found, float]]:
        """Adds the gradient of a batch's loss, times `factor`, to parameters.

        Shares count by their rows. Gradients are added in the order of shares, whichever comes first.

        Args:
            parameters: all that need a gradient.
            rows: of the batch.
            take: some of its rows as `loss` wants them; called one after the other, by the caller's thread.
            loss: a share's loss, a mean over its rows, and what else it has found; called side by side.
            factor: of the gradient.

        Returns:
            What `loss` has found and the part of the batch that it stands for, of each share.
        """
        cuts = self._cut(rows)
        shares = [take(cut) for cut in cuts]
        if len(shares) == 1:
            total, found = loss(shares[0])
            total.backward(factor)
            return [(found, 1.0)]
        parts = [(cut.stop - cut.start) / rows for cut in cuts]

        def work(share: _Input, part: float) -> tuple[_Found, Sequence[Tensor | None]]:
            total, found = loss(share)
            # Not `backward`: all shares would add to the same `.grad`, in the order in which they come.
            return found, torch.autograd.grad(total, parameters, factor * part, allow_unused=True)

        results = self._map(work, shares, parts)
        for parameter, *gradients in zip(parameters, *(gradients for _, gradients in results), strict=True):
            for gradient in gradients:
                if gradient is not None:
                    # `backward` lays a gradient out like its parameter, too; AdamW is slow where the two differ.
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad += gradient
        return [(found, part) for (found, _), part in zip(results, parts, strict=True)]

    def drawing(self, unet: Callable[..., Any], autocast: Callable[[], Any]) -> Callable[..., Any]:
        """The network as samplers call it, without gradients, each call cut into shares."""
        if self.count == 1:
            return unet

        def call(sample: Tensor, timestep: Tensor, *, encoder_hidden_states: Tensor, **how: Any) -> tuple[Tensor]:
            def work(rows: slice) -> Tensor:
                states = frames_of(encoder_hidden_states, rows, len(sample))
                with torch.no_grad(), autocast():  # of the caller's thread both say nothing here
                    return unet(sample[rows], timestep, encoder_hidden_states=states, **how)[0]

            return (torch.cat(self._map(work, self._cut(len(sample)))),)

        return call

    def _cut(self, rows: int) -> list[slice]:
        """Rows in as many runs as there are lanes, the first ones longer by one where it does not come out even."""
        count = min(self.count, rows)
        ends = [(lane * rows + count - 1) // count for lane in range(count + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def _map(self, work: Callable[..., _Found], *shares: Sequence[Any]) -> list[_Found]:
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


def frames_of(states: Tensor, rows: slice, clips: int) -> Tensor:
    """Of states with a row a frame those of some of the clips."""
    frames = len(states) // clips
    return states[rows.start * frames : rows.stop * frames]
