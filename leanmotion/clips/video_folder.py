"""A user's folder of videos with captions, WebVid's layout included, as clips of one size."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
from av.error import FFmpegError
from jaxtyping import UInt8

from leanmotion.clips.latents import Clip
from leanmotion.errors import LeanmotionError

# Containers that hold their own pictures. Playlists and scripts (HLS, concat, ...) name other files and addresses.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,gif,asf,ogg"


@dataclass(frozen=True)
class Skipped:
    """A video that could not be used, and why."""

    file: str
    reason: str


def folder_clips(
    folder: str | Path,
    captions: str | Path,
    *,
    frames: int,
    height: int,
    width: int,
    stride: int = 1,
    seed: int = 0,
    count: int | None = None,
    skipped: list[Skipped],
) -> Iterator[Clip]:
    """Clips of a folder in the order of its captions file; one crop in time and space a video.

    Args:
        folder: where the videos are.
        captions: CSV or Parquet, with columns `file` and `caption`, or WebVid's `videoid`, `page_dir` and `name`
            (the video is `page_dir/videoid.mp4`, the caption `name`).
        frames: frames of a clip.
        height: in pixels; a video is scaled until it covers the crop.
        width: in pixels.
        stride: video frames from one clip frame to the next.
        seed: of the crops; a video's own crop depends on the seed and its name only.
        count: stop after that many clips.
        skipped: gets the videos that are missing, broken or too short.

    Raises:
        LeanmotionError: no folder, no readable captions file, or a row that points outside the folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise LeanmotionError(f"{folder}: no such folder: set clips.path to the folder of your videos")
    done = 0
    for number, (name, caption) in enumerate(_rows(Path(captions)), 1):
        if count is not None and done >= count:
            return
        path = inside(root, name, f"{captions}, row {number}")
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:16], "little"))
        if not path.is_file():
            skipped.append(Skipped(name, "no such file"))
            continue
        if not caption.strip():
            skipped.append(Skipped(name, "no caption"))
            continue
        try:
            video = read_clip(path, frames=frames, height=height, width=width, stride=stride, rng=rng)
        # Damaged videos raise whatever the decoder meets: FFmpeg's errors, and others from its bindings.
        except (FFmpegError, ValueError, OSError, EOFError, IndexError, MemoryError) as error:
            skipped.append(Skipped(name, " ".join(str(error).split()) or type(error).__name__))
            continue
        done += 1
        yield Clip(caption, video, f"folder:{name}")


def inside(root: Path, name: str, where: str) -> Path:
    """The path of a file in a folder.

    Raises:
        LeanmotionError: the name is absolute, climbs out with `..`, or follows a link out of the folder.
    """
    parts = PurePosixPath(name).parts
    outside = not name or "\0" in name or ".." in parts or PurePosixPath(name).is_absolute()
    # Also as Windows would read it: captions files travel.
    outside |= ".." in PureWindowsPath(name).parts or bool(PureWindowsPath(name).anchor)
    path = root / name if not outside else root
    with suppress(OSError, RuntimeError):  # a loop of links: not a file, which the caller finds
        outside |= not path.resolve().is_relative_to(root.resolve())
    if outside:
        raise LeanmotionError(f"{where}: {name!r} is not inside {root}: name files relative to the folder")
    return path


def read_clip(
    path: Path, *, frames: int, height: int, width: int, stride: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "frames height width 3"]:
    """A random stretch and crop of a video; only its own frames are held.

    Raises:
        ValueError: no pictures, or too few.
        FFmpegError: broken, or not a video of its own (playlists are refused).
    """
    span = (frames - 1) * stride + 1
    length = _length(path)
    if length < span:
        raise ValueError(f"has {length} frames, {span} are needed")
    start = int(rng.integers(length - span + 1))
    across, down = float(rng.random()), float(rng.random())
    wanted = set(range(start, start + span, stride))
    pictures = []
    with _open(path) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                scale = max(height / frame.height, width / frame.width)
                h, w = max(height, round(frame.height * scale)), max(width, round(frame.width * scale))
                picture = frame.reformat(width=w, height=h, format="rgb24", interpolation="BICUBIC").to_ndarray()
                top, left = int(down * (h - height + 1)), int(across * (w - width + 1))
                pictures.append(picture[top : top + height, left : left + width])
            if len(pictures) == frames:
                return np.ascontiguousarray(np.stack(pictures))
    raise ValueError(f"broke off after {len(pictures)} of the {frames} frames")


def _open(path: Path) -> Any:
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    return av.open(str(path.resolve()), "r", options=options)


def _length(path: Path) -> int:
    """Pictures of a video by its packets: what a header says may be missing or wrong."""
    with _open(path) as container:
        if not container.streams.video:
            raise ValueError("has no pictures")
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """File and caption of every row, streamed."""
    try:
        rows = _parquet(path) if path.suffix == ".parquet" else _csv(path)
        for row in rows:
            if "file" in row:
                yield str(row["file"] or ""), str(row.get("caption") or "")
            else:
                file = f"{row['videoid']}.mp4"
                yield f"{row['page_dir']}/{file}" if row["page_dir"] else file, str(row["name"] or "")
    except LeanmotionError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise LeanmotionError(f"{path}: not a readable captions file ({error}): CSV or Parquet") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        _check(path, reader.fieldnames or [])
        yield from reader


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    columns = _check(path, file.schema_arrow.names)
    for batch in file.iter_batches(1024, columns=columns):
        yield from batch.to_pylist()


def _check(path: Path, names: Any) -> list[str]:
    for columns in (["file", "caption"], ["videoid", "name", "page_dir"]):
        if set(columns) <= set(names):
            return columns
    raise LeanmotionError(
        f"{path}: has columns {', '.join(names)}: needed are file and caption, or videoid, name and page_dir"
    )
