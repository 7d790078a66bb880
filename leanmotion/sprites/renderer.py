"""Captions and seeds -> clips of sprites: signed distances, antialiased, vectorised over clips, frames and pixels.

Motion modules never see the caption, so whatever moves tells in a single frame how it moves: a fading trail behind, a
white nose, a floor, a halo to grow into, stars, the tint of the light. The cues are several pixels wide, for they have
to pass through an autoencoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leanmotion.sprites.world import COLOURS, SHAPES, parse_caption

Array = NDArray[np.floating]

HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
WHITE = np.asarray((1.0, 1.0, 1.0), np.float32)
FLOOR_GREY = np.asarray((0.5, 0.5, 0.5), np.float32)
DUSK = np.asarray((0.62, 0.42, 0.25), np.float32)
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


def _shape_distance(canvas: _Canvas, kind: NDArray[np.intp], cx: Array, cy: Array, r: Array, angle: Array) -> Array:
    """Signed distance to each clip's own shape; kind [n], the others [n, frames, 1, 1]; angle in radians."""
    dx, dy = canvas.x - cx, canvas.y - cy
    cos, sin = np.cos(angle), np.sin(angle)
    px, py = cos * dx + sin * dy, cos * dy - sin * dx
    circle = np.hypot(px, py) - r
    side = 0.85 * r
    square = np.maximum(np.abs(px), np.abs(py)) - side
    # An isosceles triangle, tip up: the largest of three half-plane distances.
    slope = np.float32(np.sqrt(3) / 2)
    triangle = np.maximum(py - 0.75 * r, slope * np.abs(px) - 0.5 * py - 0.52 * r)
    which = kind[:, None, None, None]
    return np.where(which == 0, circle, np.where(which == 1, square, triangle)).astype(np.float32)


def _trail(canvas: _Canvas, cx: Array, cy: Array, r: Array, hx: Array, hy: Array, length: float) -> Array:
    """Coverage of a band that fades out behind a sprite that heads towards (hx, hy)."""
    dx, dy = canvas.x - cx, canvas.y - cy
    behind = -(dx * hx + dy * hy)
    aside = np.abs(dx * hy - dy * hx)
    return canvas.cover(aside - 0.6 * r) * canvas.cover(-behind) * 0.85 * (1 - behind / length).clip(0, 1)


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
    x, y = draw(0, 0.28, 0.72) + still, draw(1, 0.28, 0.72) + still
    r, angle = draw(2, 0.17, 0.21) + still, still
    light: Array = np.ones((1, 1, 1, 1, 1), np.float32)

    if motion in HEADINGS:
        hx, hy = (np.full_like(still, h) for h in HEADINGS[motion])
        # From past the middle to the far side: where a sprite is says already which way it goes.
        along = draw(3, -0.16, -0.08) + draw(4, 0.38, 0.46) * u
        x = 0.5 + along if hx.flat[0] > 0 else (0.5 - along if hx.flat[0] < 0 else x)
        y = 0.5 + along if hy.flat[0] > 0 else (0.5 - along if hy.flat[0] < 0 else y)
        canvas.lay(_trail(canvas, x, y, r, hx, hy, 0.65), colour)
    elif motion == "turn":
        angle = draw(3, -0.5, 0.5) + draw(4, 1.3, 1.5) * np.pi * u
    elif motion == "bounce":
        canvas.lay(canvas.cover(FLOOR_Y - canvas.y + np.zeros_like(canvas.x)) + np.zeros_like(still), FLOOR_GREY)
        height = np.abs(np.cos(np.pi * (draw(3, 0.0, 0.3) + 1.1 * u)))
        y = FLOOR_Y - 0.85 * r - draw(4, 0.38, 0.48) * height
    elif motion == "grow":
        x, y = draw(0, 0.4, 0.6) + still, draw(1, 0.4, 0.6) + still
        halo = np.hypot(canvas.x - x, canvas.y - y)
        canvas.lay(0.55 * ((0.42 - halo) / 0.2).clip(0, 1), colour)
        r = draw(2, 0.09, 0.12) + draw(4, 0.14, 0.18) * u
    elif motion == "pan":
        shift = draw(3, 0.6, 0.7) * u
        for k in range(5):
            # Steps of 0.48 keep neighbouring rows apart.
            star_x = (draw(4, 0.0, 0.25) + 0.48 * k + draw(5 + k, -0.08, 0.08) - shift) % 1.2 - 0.1
            star_y = 0.1 + 0.2 * k + draw(10 + k, -0.04, 0.04)
            canvas.lay(canvas.cover(np.hypot(canvas.x - star_x, canvas.y - star_y) - 0.05), WHITE)
    elif motion == "fade":
        level = (draw(3, 0.2, 0.28) + draw(4, 0.65, 0.72) * (1 - u))[..., None]
        canvas.rgb += level * DUSK
        light = 0.55 + 0.45 * level
    elif motion == "meet":
        r = draw(2, 0.14, 0.16) + still
        x = draw(0, 0.46, 0.54) + still
        gap = draw(3, 0.36, 0.4) - draw(4, 0.21, 0.25) * u
        for side in (-1.0, 1.0):
            hx = np.full_like(still, -side)
            canvas.lay(_trail(canvas, x + side * gap, y, r, hx, still, 0.3), colour)
        for side in (-1.0, 1.0):
            canvas.lay(canvas.cover(_shape_distance(canvas, kind, x + side * gap, y, r, still)), colour)
        return canvas.rgb

    canvas.lay(canvas.cover(_shape_distance(canvas, kind, x, y, r, angle)), colour * light)
    if motion == "turn":
        nose_x, nose_y = x + 0.62 * r * np.sin(angle), y - 0.62 * r * np.cos(angle)
        canvas.lay(canvas.cover(np.hypot(canvas.x - nose_x, canvas.y - nose_y) - 0.42 * r), WHITE)
    return canvas.rgb
