"""Captioned clips as latents in Parquet, written row group by row group: memory does not grow with their number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.digests import weights_digest
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.tables import TableWriter, read_table, write_table

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
    key = f"{weights_digest(vae)} {batch} {code_address(encode_clips)}"
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


def _shuffled(count: int, *seed: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence(seed)).permutation(count)
