"""The clips to train on: latents and captions at random places of a table that is never in memory as a whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.tables import stream_table


class ClipSource:
    """Random access to a `clips` table that never holds more than `remembered` row groups.

    Args:
        path: the Parquet file. It is read through once, group by group, to verify it.
        remembered: row groups kept; at least the window of `order` and the one that follows.
        window: row groups that are shuffled together.

    Raises:
        LeanmotionError: missing, corrupt, empty, or clips of several sizes.
    """

    def __init__(self, path: str | Path, *, remembered: int = 8, window: int = 4) -> None:
        self.path, self.window = Path(path), window
        self.remembered = max(remembered, 2 * window)
        sizes: list[int] = []
        shapes: set[tuple[int, ...]] = set()
        for group in stream_table(path, "clips"):
            sizes.append(group.num_rows)
            columns = [group.column(name).to_pylist() for name in ("channels", "frames", "height", "width")]
            shapes |= set(zip(*columns, strict=True))
        if len(shapes) != 1:
            raise LeanmotionError(f"{path}: holds clips of {len(shapes)} sizes: one is needed")
        (self.shape,) = shapes
        self.starts = np.cumsum([0, *sizes])
        self._file = pq.ParquetFile(path, page_checksum_verification=True)
        self.digest = (self._file.metadata.metadata or {})[b"leanmotion.digest"].decode()
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def order(self, seed: int, start: int, count: int) -> list[int]:
        """Indices at positions `start` to `start + count` of an endless sequence; every pass has each clip once.

        Row groups are shuffled, then clips within each `window` of them: near neighbours in the sequence lie in few
        row groups. The sequence depends on the seed and the position alone.
        """
        return [self._at(seed, position) for position in range(start, start + count)]

    def batch(self, indices: Sequence[int]) -> tuple[Float[Tensor, "batch channels frames height width"], list[str]]:
        """Latents and captions of these clips, in this order."""
        latents, captions = [], []
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"clip {index} of {len(self)}")
            number = int(np.searchsorted(self.starts, index, side="right")) - 1
            row = self._group(number).slice(index - int(self.starts[number]), 1)
            values = np.frombuffer(row.column("latents")[0].as_py(), "<f4")
            latents.append(torch.from_numpy(values.copy()).view(self.shape))
            captions.append(row.column("caption")[0].as_py())
        return torch.stack(latents), captions

    def _group(self, number: int) -> pa.Table:
        if number in self._groups:
            self._groups.move_to_end(number)
        else:
            self._groups[number] = self._file.read_row_group(number, columns=["caption", "latents"])
            while len(self._groups) > self.remembered:
                self._groups.popitem(last=False)
        return self._groups[number]

    def _at(self, seed: int, position: int) -> int:
        epoch, place = divmod(position, len(self))
        sizes = np.diff(self.starts)
        groups = _shuffled(len(sizes), seed, epoch)
        ends = np.cumsum(sizes[groups])
        window = int(np.searchsorted(ends, place, side="right")) // self.window
        first, last = window * self.window, min((window + 1) * self.window, len(groups))
        members = np.concatenate([np.arange(int(self.starts[g]), int(self.starts[g + 1])) for g in groups[first:last]])
        offset = place - (int(ends[first - 1]) if first else 0)
        return int(members[_shuffled(len(members), seed, epoch, window + 1)[offset]])


@lru_cache(maxsize=16)
def _shuffled(count: int, *seed: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence(seed)).permutation(count)
