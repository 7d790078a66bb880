"""Where and when clips move: a plain descriptor, no network, beside the features that distances are taken in."""

import numpy as np
from jaxtyping import Float32, UInt8

from leanmotion.errors import LeanmotionError

_GRID = 8


def motion_descriptor(clips: UInt8[np.ndarray, "clips frames height width 3"]) -> Float32[np.ndarray, "clips cells"]:
    """Where and when a clip moves: mean absolute change between frames, on a coarse grid.

    `|frame_{t+1} - frame_t|` in [0, 1], averaged over RGB and then over the cells of an 8 x 8 grid (fewer
    for frames below 8 pixels); `cells` runs over time, rows, columns. The absolute value comes before the
    average: small things that move count. Direction is not in it, and neither is anything that stands still.

    Raises:
        LeanmotionError: fewer than two frames.
    """
    count, frames, height, width = clips.shape[:4]
    if frames < 2:
        raise LeanmotionError(f"sampling.frames is {frames}: motion takes 2 frames or more")
    rows, columns = (np.linspace(0, n, min(_GRID, n) + 1).astype(int) for n in (height, width))
    area = np.outer(np.diff(rows), np.diff(columns))
    out = np.empty((count, frames - 1, *area.shape), np.float32)
    for i, clip in enumerate(clips):
        change = np.abs(np.diff(clip.astype(np.int16), axis=0)).mean(axis=-1)
        cells = np.add.reduceat(np.add.reduceat(change, rows[:-1], axis=1), columns[:-1], axis=2)
        out[i] = cells / area / 255.0
    return out.reshape(count, -1)
