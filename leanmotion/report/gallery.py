"""Many clips as one: side by side as one clip, or as a sheet of strips. For eyes."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from leanmotion.errors import LeanmotionError
from leanmotion.features.video_tables import find_clips, read_clips
from leanmotion.videos.codec import contact_sheet, write_gif, write_mp4

SUFFIXES = (".png", ".gif", ".mp4")
_GAP = 2


def mosaic(
    clips: Sequence[UInt8[np.ndarray, "frames height width 3"]], columns: int
) -> UInt8[np.ndarray, "frames high wide 3"]:
    """Clips of one shape as one clip, in rows of `columns`, a white gap between them; places left over are white.

    Raises:
        LeanmotionError: No clips, or of several shapes.
    """
    shapes = {clip.shape for clip in clips}
    if len(shapes) != 1:
        raise LeanmotionError(f"side by side: {len(shapes)} shapes of clips: give clips of one")
    frames, height, width, _ = clips[0].shape
    columns = min(columns, len(clips))
    rows = math.ceil(len(clips) / columns)
    size = rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP
    whole = np.full((frames, *size, 3), 255, np.uint8)
    for place, clip in enumerate(clips):
        top, left = place // columns * (height + _GAP), place % columns * (width + _GAP)
        whole[:, top : top + height, left : left + width] = clip
    return whole


def enlarge(
    clip: UInt8[np.ndarray, "frames height width 3"], wide: int
) -> UInt8[np.ndarray, "frames high_out wide_out 3"]:
    """Every pixel repeated, as often as the clip stays within `wide` pixels; a wider one stays as it is."""
    scale = max(1, wide // clip.shape[2])
    return clip.repeat(scale, axis=1).repeat(scale, axis=2)


def write_clips(clips: Sequence[UInt8[np.ndarray, "_ height width 3"]], out: Path, *, fps: int = 8) -> None:
    """Clips to a file by its suffix: .png a contact sheet, one strip of frames a clip; .gif and .mp4 side by side.

    Raises:
        LeanmotionError: Another suffix, or clips of several sizes.
    """
    if out.suffix not in SUFFIXES:
        raise LeanmotionError(f"--out {out}: choose a name that ends in {', '.join(SUFFIXES)}")
    if out.suffix == ".png":
        write_png(out, contact_sheet(clips, columns=2))
        return
    whole = enlarge(mosaic(clips, columns=math.ceil(math.sqrt(len(clips)))), 960)
    (write_gif if out.suffix == ".gif" else write_mp4)(out, whole, fps)


def write_png(out: Path, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    """A picture to a file, whole or not at all."""
    from PIL import Image

    partial = out.with_name(f".{out.name}.partial")
    Image.fromarray(picture).save(partial, "PNG", optimize=True)
    partial.replace(out)


def first_clips(table: Path, count: int) -> list[UInt8[np.ndarray, "_ height width 3"]]:
    """The first clips of a video table, whatever their takes."""
    return [clip for take in read_clips(table) for clip in take.frames][:count]


def matching_clips(
    tables: Sequence[tuple[Path, str]], split: str, seeds: str, count: int
) -> list[list[UInt8[np.ndarray, "_ height width 3"]]]:
    """Of each (video table, variant) the clips of the same prompts and seeds, prompts not seen before first."""
    takes = [find_clips(path, variant=variant, split=split, seeds=seeds) for path, variant in tables]
    prompts = takes[0].rows["prompt"].tolist()
    if any(take.rows["prompt"].tolist() != prompts for take in takes):
        raise LeanmotionError(f"{tables[-1][0]}: its prompts are others than those of {tables[0][0]}: `dvc repro`")
    fresh = [i for i, prompt in enumerate(prompts) if prompt not in prompts[:i]]
    order = [*fresh, *(i for i in range(len(prompts)) if i not in set(fresh))][:count]
    return [[take.frames[i] for i in order] for take in takes]
