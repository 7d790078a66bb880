"""Captions and seeds -> clips of sprites: signed distances, antialiased, vectorised over clips, frames and pixels.

What moves starts near one place and takes nearly one path; the seed chooses the place across it, the size and small
differences. What tells shapes and motions apart is several pixels wide, for it has to pass through an autoencoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leanmotion.sprites.world import COLOURS, SHAPES, parse_caption

Array = NDArray[np.floating]

FLOOR_GREY = np.asarray((0.5, 0.5, 0.5), np.float32)
# Dark, so that what stands before them stands out as it does on black: before brighter ones shapes were never learnt.
DUSK = np.asarray((0.24, 0.16, 0.09), np.float32)
POST_GREY = np.asarray((0.4, 0.4, 0.4), np.float32)
FLOOR_Y = 0.86
BATCH = 64


def render(captions: Sequence[str], seeds: Sequence[int], *, frames: int = 8, size: int = 48) -> NDArray[np.uint8]:
    """Draw one clip per caption and seed.

    Args:
        captions: n captions of the world.
        seeds: n seeds; a clip depends on its own caption and seed only. More frames sample the same motion finer.
        frames: frames per clip, at least 2.
        size: height and width in pixels.

    Returns:
        uint8 [n, frames, size, size, 3], RGB.

    Raises:
        ValueError: lengths differ, a caption is unknown, or fewer than two frames are asked for.
    """
    if len(captions) != len(seeds):
        raise ValueError(f"{len(captions)} captions but {len(seeds)} seeds")
    if frames < 2:
        raise ValueError(f"a clip needs at least 2 frames, not {frames}")
    out = np.empty((len(captions), frames, size, size, 3), np.uint8)
    by_motion: dict[str, list[int]] = {}
    for i, caption in enumerate(captions):
        by_motion.setdefault(parse_caption(caption).motion, []).append(i)
    for motion, indices in by_motion.items():
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH]
            clips = _render_motion(motion, [captions[i] for i in part], [seeds[i] for i in part], frames, size)
            out[part] = np.round(clips.clip(0, 1) * 255).astype(np.uint8)
    return out


def _draws(caption: str, seed: int) -> NDArray[np.float64]:
    """Sixteen uniform numbers that belong to this caption and seed."""
    digest = hashlib.sha256(f"{caption}|{seed}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(16)


class _Canvas:
    """Pictures [n, frames, size, size, 3] on which shapes are laid one over another; units are picture widths."""

    def __init__(self, clips: int, frames: int, size: int) -> None:
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x: Array = axis[None, None, None, :]
        self.y: Array = axis[None, None, :, None]
        self.size = size
        self.rgb: Array = np.zeros((clips, frames, size, size, 3), np.float32)

    def cover(self, distance: Array) -> Array:
        """Signed distance in picture widths -> coverage in [0, 1], one pixel of antialiasing."""
        return (0.5 - distance * self.size).clip(0, 1)

    def lay(self, coverage: Array, colour: Array) -> None:
        """Blend a colour ([3] or broadcastable to the picture) over what is there."""
        alpha = coverage[..., None]
        self.rgb += alpha * (colour - self.rgb)


def _shape_distance(canvas: _Canvas, kind: NDArray[np.intp], cx: Array, cy: Array, r: Array) -> Array:
    """Signed distance to each clip's own shape; kind [n], the others [n, frames, 1, 1]."""
    px, py = canvas.x - cx, canvas.y - cy
    ring = np.abs(np.hypot(px, py) - 0.76 * r) - 0.3 * r
    square = np.maximum(np.abs(px), np.abs(py)) - 0.85 * r
    # An isosceles triangle, tip up: the largest of two half-plane distances, mirrored.
    triangle = np.maximum(py - 0.8 * r, (2 * np.abs(px) - py - 1.1 * r) / np.sqrt(np.float32(5)))
    which = kind[:, None, None, None]
    return np.where(which == 0, ring, np.where(which == 1, square, triangle)).astype(np.float32)


def _render_motion(motion: str, captions: list[str], seeds: list[int], frames: int, size: int) -> Array:
    scenes = [parse_caption(caption) for caption in captions]
    n = len(scenes)
    canvas = _Canvas(n, frames, size)
    colour = np.asarray([COLOURS[s.colour] for s in scenes], np.float32)[:, None, None, None, :]
    kind = np.asarray([SHAPES.index(s.shape) for s in scenes])
    draws = np.stack([_draws(c, s) for c, s in zip(captions, seeds, strict=True)]).astype(np.float32)

    def draw(column: int, low: float, high: float) -> Array:
        return (low + (high - low) * draws[:, column])[:, None, None, None]

    u = np.linspace(0, 1, frames, dtype=np.float32)[None, :, None, None]
    still = np.zeros((n, frames, 1, 1), np.float32)
    x, y = draw(0, 0.35, 0.65) + still, draw(1, 0.35, 0.65) + still
    r = draw(2, 0.18, 0.21) + still
    light: Array = np.ones((1, 1, 1, 1, 1), np.float32)
    sides: tuple[Array, ...] = (still,)

    if motion in ("grow", "pan", "fade"):
        x, y = draw(0, 0.44, 0.56) + still, draw(1, 0.44, 0.56) + still
    if motion == "slide":
        x = draw(3, 0.18, 0.24) + draw(4, 0.56, 0.6) * u
    elif motion == "fall":
        y = draw(3, 0.18, 0.24) + draw(4, 0.56, 0.6) * u
    elif motion == "orbit":
        angle = draw(3, -0.2, 0.2) + 1.75 * np.pi * u
        x = draw(0, 0.46, 0.54) + 0.26 * np.sin(angle)
        y = draw(1, 0.46, 0.54) - 0.26 * np.cos(angle)
    elif motion == "bounce":
        canvas.lay(canvas.cover(FLOOR_Y - canvas.y + np.zeros_like(canvas.x)) + np.zeros_like(still), FLOOR_GREY)
        # From the top to the floor, up again, and down: one and a half arches.
        y = FLOOR_Y - 0.85 * r - draw(4, 0.42, 0.48) * np.abs(np.cos(np.pi * (draw(3, 0.0, 0.08) + 1.42 * u)))
    elif motion == "grow":
        r = draw(2, 0.09, 0.11) + draw(4, 0.17, 0.19) * u
    elif motion == "pan":
        # Posts go by behind the sprite, one and a third of their spacing to the left.
        behind = (canvas.x + draw(3, 0.0, 0.1) + 0.65 * u) % 0.5
        canvas.lay(canvas.cover(np.abs(behind - 0.25) - 0.065) + np.zeros_like(canvas.y), POST_GREY)
    elif motion == "fade":
        level = (draw(3, 0.1, 0.16) + draw(4, 0.8, 0.84) * (1 - u))[..., None]
        canvas.rgb += level * DUSK
        light = 0.6 + 0.4 * level
    elif motion == "meet":
        r = draw(2, 0.14, 0.16) + still
        x = draw(0, 0.47, 0.53) + still
        gap = draw(3, 0.32, 0.34) - draw(4, 0.16, 0.18) * u
        sides = (-gap, gap)

    for side in sides:
        canvas.lay(canvas.cover(_shape_distance(canvas, kind, x + side, y, r)), colour * light)
    return canvas.rgb
