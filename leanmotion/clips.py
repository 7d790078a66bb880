"""Distillation data: clips as latents in Parquet, written and read row group by row group.

Memory does not grow with the number of clips, neither in `write_clips` nor in `ClipSource`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from leanmotion.checkpoints import weights_digest
from leanmotion.chunks import code_digest, scratch_folder
from leanmotion.errors import LeanmotionError
from leanmotion.tables import TableWriter, read_table, stream_table, write_table

ROW_GROUP = 32
"""Clips of a row group: what is encoded, written and read at once."""


@dataclass(frozen=True)
class Clip:
    """One captioned video; `source` says where it is from (`sprites`, `teacher`, `folder:a/b.mp4`)."""

    caption: str
    frames: UInt8[np.ndarray, "frames height width 3"]
    source: str


@torch.no_grad()
def encode_clips(
    frames: UInt8[np.ndarray, "clips frames height width 3"], vae: Any, *, batch: int = 16
) -> Float[Tensor, "clips channels frames latent_height latent_width"]:
    """Latents as the pipeline samples them: the posterior's mean times the VAE's scaling factor, in float32.

    Frame by frame, as latent diffusion does with pictures (Rombach et al. 2022, section 3.1).

    Args:
        frames: RGB [clips, frames, height, width, 3], 0 to 255; the VAE sees -1 to 1.
        vae: an `AutoencoderKL`, which makes of 2 ** (levels - 1) pixels one.
        batch: frames a pass; another number moves floats by about 1e-6.

    Returns:
        [clips, channels, frames, height / factor, width / factor], on the CPU.
    """
    clips, length = frames.shape[:2]
    flat = torch.from_numpy(np.ascontiguousarray(frames)).flatten(0, 1).permute(0, 3, 1, 2)
    parts = []
    for part in flat.split(batch):
        x = (part.to(vae.device).float() / 127.5 - 1).to(vae.dtype)
        parts.append(vae.encode(x).latent_dist.mode().float().cpu() * vae.config.scaling_factor)
    latents = torch.cat(parts).unflatten(0, (clips, length))
    return latents.permute(0, 2, 1, 3, 4).contiguous()


def write_clips(
    path: str | Path, clips: Iterable[Clip], vae: Any, *, batch: int = 16, meta: dict[str, str] | None = None
) -> int:
    """Encode clips as they come and write the `clips` table, whole or not at all.

    Returns:
        The number of clips.

    Raises:
        LeanmotionError: there is none, or they are not all of one size.
    """
    rows, shape = 0, None
    stream = iter(clips)
    key = f"{weights_digest(vae)} {batch} {code_digest('clips')}"
    with TableWriter(path, "clips", meta) as writer:
        while group := list(islice(stream, ROW_GROUP)):
            for clip in group:
                shape = shape or clip.frames.shape
                if clip.frames.shape != shape:
                    raise LeanmotionError(f"clips: {clip.source} is {clip.frames.shape}, others are {shape}")
            latents = _kept_latents(group, vae, batch, key)
            for clip, values in zip(group, latents, strict=True):
                if not np.isfinite(values).all():
                    raise LeanmotionError(
                        f"latents of {clip.source}, {clip.caption[:80]!r}, are not finite: check the VAE"
                    )
            channels, length, height, width = latents.shape[1:]
            writer.write(
                [
                    {
                        "clip": rows + i,
                        "caption": clip.caption,
                        "source": clip.source,
                        "channels": channels,
                        "frames": length,
                        "height": height,
                        "width": width,
                        "latents": latents[i].tobytes(),
                    }
                    for i, clip in enumerate(group)
                ]
            )
            rows += len(group)
        if rows == 0:
            raise LeanmotionError("clips: not one clip to train on: see what was skipped and why")
    return rows


def _kept_latents(
    group: Sequence[Clip], vae: Any, batch: int, key: str
) -> Float32[np.ndarray, "clips channels frames latent_height latent_width"]:
    """Latents of a group, kept in the scratch store by VAE and pixels: a killed stage encodes no group again."""
    frames = np.stack([clip.frames for clip in group])
    name = hashlib.sha256(key.encode() + repr(frames.shape).encode() + frames.tobytes()).hexdigest()
    path = scratch_folder() / "clips" / f"{name}.parquet"
    if path.is_file():
        with suppress(LeanmotionError):  # damaged: encoded again
            row = read_table(path, "latents").to_pylist()[0]
            return np.frombuffer(row["values"], "<f4").reshape(row["shape"])
    latents = encode_clips(frames, vae, batch=batch).numpy().astype("<f4", copy=False)
    write_table(path, "latents", [{"shape": list(latents.shape), "values": latents.tobytes()}])
    return latents


def sprites_clips(count: int, *, frames: int, size: int, seed: int) -> Iterator[Clip]:
    """Rendered clips of the sprites world's training captions, all captions equally often but for one.

    The first n do not depend on `count`.
    """
    from leanmotion.sprites.renderer import render
    from leanmotion.sprites.world import training_captions

    captions = training_captions()
    for start in range(0, count, ROW_GROUP):
        numbers = range(start, min(start + ROW_GROUP, count))
        said = [captions[_shuffled(len(captions), seed, n // len(captions))[n % len(captions)]] for n in numbers]
        seeds = [seed * 1_000_003 + n for n in numbers]
        for caption, video in zip(said, render(said, seeds, frames=frames, size=size), strict=True):
            yield Clip(caption, video, "sprites")


def teacher_clips(
    captions: Iterable[str], frames: Iterable[UInt8[np.ndarray, "frames height width 3"]]
) -> Iterator[Clip]:
    """Clips that the teacher drew itself: data where there is none, as its own samples."""
    for caption, video in zip(captions, frames, strict=True):
        yield Clip(caption, video, "teacher")


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
