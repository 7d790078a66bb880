"""The processes that run one stage together: who this one is, what it shares with the others, how it speaks.

Alone is the common case, and then nothing here does anything. `leanmotion.pipeline.launch` starts several.
"""

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from leanmotion.errors import LeanmotionError

SESSION = "LEANMOTION_SESSION"
"""Names the folder that ranks and the process that launched them share."""

DEVICE = "LEANMOTION_DEVICE"
"""Says where networks run."""

_PATIENCE = timedelta(days=7)
"""How long a rank waits for the others: a dead one is torchrun's to notice, a slow one is no fault."""

_BUCKET = 2**25
"""Numbers that are summed over ranks at once."""

_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that run the same stage; by default it is alone and waits for nobody."""

    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that writes results."""
        return self.index == 0

    def agree(self, value: Any) -> Any:
        """The main rank's value, on every rank. Plain values only."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def divide(self, names: Sequence[str]) -> set[str]:
        """A share of the main rank's names: what each rank sees in a store changes while others work."""
        return set(self.agree(list(names))[self.index :: self.count])

    def add(self, tensors: Sequence[Any]) -> None:
        """Replace each tensor by its sum over all ranks, the same bits on each of them.

        The sum of two has the bits of one process that adds the same two numbers; more add in an order of their own.
        """
        if self.count == 1:
            return
        import torch
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: Any) -> Any:
        """The tensors of all ranks, of one shape, joined along their first dimension in the order of ranks."""
        if self.count == 1:
            return tensor
        import torch
        import torch.distributed as dist

        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def dismiss(self) -> None:
        """Only the main rank returns: it writes and reports. For the others the stage has ended well."""
        if not self.main:
            leave()
            raise SystemExit(0)

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


@cache
def ranks() -> Ranks:
    """Who this process is; in a rank, the first call returns when all of them are up."""
    if not is_rank() or int(os.environ["WORLD_SIZE"]) == 1:
        return Ranks()
    from accelerate import PartialState

    # Not an Accelerator: the config's precision and compiler settings could reach results through it.
    state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true", timeout=_PATIENCE)
    return Ranks(state.process_index, state.num_processes)


def is_rank() -> bool:
    """Whether this process was launched as a rank."""
    return SESSION in os.environ and "RANK" in os.environ


def is_main() -> bool:
    """Whether this process speaks for all: the main rank, or the only one."""
    return not is_rank() or os.environ["RANK"] == "0"


def device() -> str:
    """Where networks run: `$LEANMOTION_DEVICE`, else a GPU where there is one, of several ranks each its own.

    `mps`, an Apple GPU, is taken where the environment names it. Never part of a cached result.

    Raises:
        LeanmotionError: `$LEANMOTION_DEVICE` names what is not here.
    """
    import torch

    chosen = _named_device() or ("cuda" if torch.cuda.is_available() else "cpu")
    return f"cuda:{os.environ['LOCAL_RANK']}" if chosen == "cuda" and is_rank() else chosen


def devices() -> list[str]:
    """All devices that one process each can use: `$LEANMOTION_DEVICE`, else every GPU in sight, else the CPU.

    Raises:
        LeanmotionError: as `device`.
    """
    import torch

    if chosen := _named_device():
        return [chosen]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def compute_in_float64(stage: str) -> None:
    """Have a stage that sums in float64 where its networks are run on the CPU instead of an Apple GPU, and say so."""
    # The word first: to ask for the device imports torch, which takes seconds.
    if os.environ.get(DEVICE, "").startswith("mps") and _named_device() == "mps":
        print(f"{stage}: on the CPU, as mps has no float64", file=sys.stderr)
        os.environ[DEVICE] = "cpu"


def _named_device() -> str:
    import torch

    if not (chosen := os.environ.get(DEVICE, "")):
        return ""
    try:
        kind = torch.device(chosen).type
    except RuntimeError:
        raise LeanmotionError(f"{DEVICE} is {chosen!r}: say cpu, cuda, cuda:1 or mps, or unset it") from None
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if kind in there and not there[kind]():
        raise LeanmotionError(f"{DEVICE} is {chosen!r}, and torch finds no such device here: say cpu, or unset it")
    return "mps" if kind == "mps" else chosen  # one machine has one


def join() -> None:
    """Become a rank: speak through the session's folder, and end when the launcher ends.

    Raises:
        LeanmotionError: This machine does not see the folder.
    """
    session = Path(os.environ[SESSION])
    if not session.is_dir():
        raise LeanmotionError(f"{session}: not there on every machine: share the folder LEANMOTION_SCRATCH")
    log = os.open(session / f"rank-{os.environ['RANK']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    if not is_main():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    when_orphaned(_give_up)


def leave() -> None:
    """Take leave of the other ranks when a stage has gone well."""
    if ranks().count > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def tell(line: str) -> None:
    """Leave the line that ends the whole stage; where there is no session to leave it in, just say it."""
    try:
        place = Path(os.environ[SESSION]) / f"error-{os.environ['RANK']}"
        partial = place.with_suffix(".partial")
        partial.write_text(line, encoding="utf-8", newline="\n")
        partial.replace(place)
    except OSError:
        print(f"error: {line}", file=sys.stderr)


def when_orphaned(act: Callable[[], None]) -> None:
    """Act, in a thread of its own, once the process that started this one is gone."""
    number = os.getppid()
    parent = psutil.Process().parent()

    def watch() -> None:
        # Where another process adopts orphans the number changes; Windows keeps it, and its process is gone.
        while os.getppid() == number and (parent is None or parent.is_running()):
            time.sleep(0.5)
        act()

    threading.Thread(target=watch, daemon=True).start()


def _give_up() -> None:
    # An interrupt first, so that nothing half-written stays; a rank that waits for others does not hear it.
    _thread.interrupt_main()
    time.sleep(_GRACE_SECONDS)
    os._exit(130)


def _buckets(tensors: Sequence[Any]) -> Iterator[list[Any]]:
    bucket: list[Any] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
