"""Time of parts of a network where they run: hooks inside whole calls, which leave the calls as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from leanmotion.cost.timing import Clock, Timed
from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import Skip

WATCHED = "watched"
"""Name of the variant that is the whole UNet with a clock on every block: against `full`, what the clocks cost."""


class Watched:
    """A variant for `measure_latency`: another one's calls, with a clock on parts of the network while it is open.

    What a call loses when a part goes is the time in its forward, less that of the `Skip` which then stands there. A
    `Skip` under the same hooks runs at the end of each call, so that what hooks and clock add to every part goes, too.

    Args:
        variant: of the whole network. Its call is made once each time that it is open.
        parts: name -> module. Their outputs stay as they are. Hooks are on the modules themselves, where they run
            around what is compiled (`leanmotion.model.compiling`) and break up no compiled code.
        clock: marks are read once, after the call: a GPU is not waited for between parts.

    Attributes:
        savings: of each call that went well, in order: part -> seconds.
    """

    def __init__(self, variant: Timed, parts: Mapping[str, nn.Module], clock: Clock) -> None:
        self.variant, self.parts, self.clock = variant, parts, clock
        self.savings: list[dict[str, float]] = []

    @contextmanager
    def __call__(self) -> Iterator[Callable[[], object]]:
        """Yields the call; hooks are gone after it, whatever happened.

        Raises:
            LeanmotionError: a part was never called, or took no time.
        """
        skip, nothing = Skip(), torch.empty(0)
        with self.variant() as call, _marked([*self.parts.values(), skip], self.clock.mark) as marks:
            yield lambda: (call(), skip(nothing))
        self.clock.wait()
        *times, [skipped] = [
            [self.clock.between(*pair) for pair in zip(found[::2], found[1::2], strict=True)] for found in marks
        ]
        named = dict(zip(self.parts, times, strict=True))
        for name, took in named.items():
            if not took:
                raise LeanmotionError(
                    f"a UNet call came to its end without {name}, so that its time is not known: check teacher.adapter "
                    "and the version of diffusers"
                )
            if not (math.isfinite(sum(took)) and min(took) > 0):
                raise LeanmotionError(f"{name} took {sum(took)} s of a UNet call: this clock tells no time")
        self.savings.append({name: sum(took) - len(took) * skipped for name, took in named.items()})


@contextmanager
def _marked(modules: Sequence[nn.Module], mark: Callable[[], Any]) -> Iterator[list[list[Any]]]:
    """For each module a list of marks, which grows by two with every call of it while the context is open."""
    marks: list[list[Any]] = [[] for _ in modules]
    handles: list[RemovableHandle] = []
    try:
        for module, found in zip(modules, marks, strict=True):
            # Hooks that return nothing change neither inputs nor output.
            handles.append(module.register_forward_pre_hook(lambda *_, found=found: found.append(mark())))
            handles.append(module.register_forward_hook(lambda *_, found=found: found.append(mark())))
        yield marks
    finally:
        for handle in handles:
            handle.remove()


def in_call_rows(
    calls: Sequence[Mapping[str, Any]], savings: Sequence[Mapping[str, float]]
) -> Iterator[dict[str, Any]]:
    """Each part's calls as `measure_latency` would give them: the call itself, and the same without the part's time.

    Args:
        calls: rows of the watched variant.
        savings: of the same calls (`Watched.savings` without those of the warm-up).
    """
    for call, saved in zip(calls, savings, strict=True):
        for name, seconds in saved.items():
            less = call["seconds"] - seconds
            yield {"variant": name, "round": call["round"], "seconds": less, "reference_seconds": call["seconds"]}
