"""How sharp a student's clips are and how much they move, as shares of the original's of the same prompts and seeds.

Distances do not say in which way clips differ. Students that match the outputs of their teacher are said to blur and to
stand still (V.I.P., arXiv 2508.03254, section 1): these two would show it.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float64, UInt8
from scipy.special import ndtri

from leanmotion.errors import LeanmotionError

Pictures = UInt8[np.ndarray, "clips frames height width 3"]


class Looks:
    """What the original's clips look like, to set others beside.

    Args:
        original: Its clips.
        interval: Level of the intervals.

    `own`: its own shares of itself.
    """

    def __init__(self, original: Pictures, interval: float) -> None:
        self._original = {name: measure(original) for name, measure in LOOKS.items()}
        self._interval = interval
        self.own = self._shares(self._original)

    def beside(self, clips: Pictures) -> dict[str, float | None]:
        """Of as many clips, in the same order: `sharpness` and `movement`, each with its interval (`_low`, `_high`).

        1 is the original's own. None where the original has none of it: plain or frozen pictures have no share.
        """
        return self._shares({name: measure(clips) for name, measure in LOOKS.items()})

    def _shares(self, seen: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name, values in seen.items():
            low, value, high = share(self._original[name], values, self._interval)
            found |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return found


def sharpness(clips: Pictures) -> Float64[np.ndarray, " clips"]:
    """Fine detail: the variance of the Laplacian of grey levels in [0, 1], mean over a clip's frames.

    Pech-Pacheco et al. (2000), "Diatom autofocusing in brightfield microscopy", for the Laplacian of four neighbours,
    inside the frame. Blur lowers it. Noise raises it: more is not better, another value is another look.

    Raises:
        LeanmotionError: frames of fewer than 3 pixels a side.
    """
    if min(clips.shape[2:4]) < 3:
        raise LeanmotionError(f"frames of {clips.shape[3]}x{clips.shape[2]}: sharpness takes 3 pixels a side or more")
    out = np.empty(len(clips))
    for i, clip in enumerate(clips):
        grey = clip.mean(axis=-1, dtype=np.float64) / 255.0
        inner = grey[:, 1:-1, 1:-1]
        around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        out[i] = (around - 4.0 * inner).var(axis=(1, 2)).mean()
    return out


def movement(clips: Pictures) -> Float64[np.ndarray, " clips"]:
    """How much a clip moves: mean absolute change between neighbouring frames, of grey levels in [0, 1].

    The mean of `features.motion`'s descriptor: how much, not where and when. Flicker is movement, too.

    Raises:
        LeanmotionError: fewer than two frames.
    """
    if clips.shape[1] < 2:
        raise LeanmotionError(f"sampling.frames is {clips.shape[1]}: motion takes 2 frames or more")
    return np.array([np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() / 255.0 for clip in clips])


def share(
    whole: Float[np.ndarray, " clips"], part: Float[np.ndarray, " clips"], interval: float
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Lower end, value and upper end of `mean(part) / mean(whole)` over pairs of clips; None where that has no value.

    The interval is normal, by the delta method for a ratio of means.
    """
    if not whole.mean() > 0:
        return None, None, None
    value = part.mean() / whole.mean()
    residual = (part - value * whole) / whole.mean()
    half = ndtri(0.5 + interval / 2) * residual.std(ddof=1) / np.sqrt(len(residual))
    return float(value - half), float(value), float(value + half)


LOOKS = {"sharpness": sharpness, "movement": movement}
