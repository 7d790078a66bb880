"""A user's folder of videos with captions, WebVid's layout included, as clips of one size."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from av.error import FFmpegError

from leanmotion.clips.captions import Row, read_rows
from leanmotion.clips.latents import Clip
from leanmotion.clips.video_reading import read_clip, why_not
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.dvc import cache_folder


@dataclass(frozen=True)
class Skipped:
    """A video or a row of captions that could not be used, and why."""

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
        skipped: gets the videos that are missing, broken, too short or elsewhere, and rows that cannot be read.

    Raises:
        LeanmotionError: no folder, no readable captions file, or a row that names what is outside the folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise LeanmotionError(f"{folder}: no such folder: set clips.path to the folder of your videos")
    done = 0
    for row in _rows(root, Path(captions)):
        if count is not None and done >= count:
            return
        if row.problem:
            skipped.append(Skipped(row.file or f"row {row.number}", row.problem))
            continue
        path = inside(root, row.file, f"{captions}, row {row.number}")
        key = f"{seed}|{row.file}".encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "little"))
        if _leads_out(path, root):
            skipped.append(Skipped(row.file, "is a link out of the folder, and not into DVC's cache"))
            continue
        if not path.is_file():
            skipped.append(Skipped(row.file, "no such file"))
            continue
        try:
            video = read_clip(path, frames=frames, height=height, width=width, stride=stride, rng=rng)
        # Damaged videos raise whatever the decoder meets: FFmpeg's errors, and others from its bindings.
        except (FFmpegError, ValueError, OSError, EOFError, LookupError, MemoryError) as error:
            skipped.append(Skipped(row.file, why_not(path, error)))
            continue
        done += 1
        yield Clip(row.caption, video, f"folder:{row.file}")


def check_names(folder: str | Path, captions: str | Path) -> None:
    """Refuse a captions file of which some row names what is outside the folder, wherever it stands.

    Raises:
        LeanmotionError: as said, or it is not to be read.
    """
    root = Path(folder)
    for row in _rows(root, Path(captions)):
        if not row.problem:
            _relative(root, row.file, f"{captions}, row {row.number}")


def inside(root: Path, name: str, where: str) -> Path:
    """The path of a file in a folder, by a name as people write it: with backslashes, accents composed or not.

    An absolute name that lies in the folder is taken, and one that begins with the folder's own name.

    Raises:
        LeanmotionError: the name is absolute and elsewhere, or climbs out with `..`.
    """
    name = _relative(root, name, where)
    spelt = [name, name.replace("\\", "/")]
    spelt += [unicodedata.normalize(form, spelt[1]) for form in ("NFC", "NFD")]
    spelt += [other.removeprefix(f"{root.name}/") for other in spelt if other.startswith(f"{root.name}/")]
    with suppress(OSError):  # a name that is too long: not a file, which the caller finds
        return next((root / other for other in spelt if (root / other).is_file()), root / name)
    return root / name


def _relative(root: Path, name: str, where: str) -> str:
    """A name relative to the folder, by the name alone: no file is looked at."""
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() and ".." not in parts:
        for base in (root.absolute(), root.resolve()):
            with suppress(ValueError):
                return PurePosixPath(name).relative_to(base).as_posix()
    # Also as Windows would read it: captions files travel.
    climbs = ".." in parts or ".." in PureWindowsPath(name).parts
    anchored = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    if not name or "\0" in name or climbs or anchored:
        raise LeanmotionError(f"{where}: {name!r} is not inside {root}: name files relative to the folder")
    return name


def _rows(root: Path, captions: Path) -> Iterator[Row]:
    """Rows of the captions file; a row is told from the rest of another one by the file that it names."""

    def exists(name: str) -> bool:
        with suppress(LeanmotionError, OSError):
            return inside(root, name, "").is_file()
        return False

    return read_rows(captions, exists)


def _leads_out(path: Path, root: Path) -> bool:
    """Whether links lead out of the folder; into DVC's cache they may, whose files DVC links to where it is told so."""
    try:
        place, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError):  # a loop of links: not a file, which the caller finds
        return False
    return not place.is_relative_to(home) and not any(place.is_relative_to(cache) for cache in _caches(home))


@cache
def _caches(home: Path) -> tuple[Path, ...]:
    """Caches of the DVC projects of a folder and of this one."""
    found = [cache_folder(place) for place in (home, Path.cwd())]
    return tuple({place.resolve() for place in found if place is not None})
