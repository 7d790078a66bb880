"""What exists in the sprites world: colours, shapes, motions, and the captions that name them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.95, 0.15, 0.12),
    "green": (0.10, 0.80, 0.20),
    "blue": (0.15, 0.30, 1.00),
    "yellow": (1.00, 0.85, 0.10),
}
"""Colour name -> RGB in [0, 1]."""

SHAPES: tuple[str, ...] = ("ring", "square", "triangle")

TEMPLATES: dict[str, str] = {
    "slide": "a {colour} {shape} slides across",
    "fall": "a {colour} {shape} falls",
    "orbit": "a {colour} {shape} turns about the middle",
    "bounce": "a {colour} {shape} bounces",
    "grow": "a {colour} {shape} grows",
    "pan": "a {colour} {shape} the camera pans past",
    "fade": "a {colour} {shape} the light fades on",
    "meet": "two {colour} {shape}s meet",
}
"""Motion name -> caption template.

No motion has its opposite here. Which of two opposite ways a sprite goes at a frame is a product of caption, frame
index and place with no lower-order signal, which networks of this size do not learn in an hour
(docs/teacher-trials.md). Colour and shape come first in every caption: a causal text encoder then says them alike in
all of them.
"""

MOTIONS: tuple[str, ...] = tuple(TEMPLATES)

ANY_SHAPE = "sprite"
"""Stands in a caption that does not say the shape."""

NO_MOTION = "none"
"""What the reader calls frames that do not belong together, stand still or run backwards: no caption has it."""

_PATTERNS = {
    motion: re.compile(
        re.escape(template)
        .replace(r"\{colour\}", f"(?P<colour>{'|'.join(COLOURS)})")
        .replace(r"\{shape\}", f"(?P<shape>{'|'.join(SHAPES)})")
    )
    for motion, template in TEMPLATES.items()
}


@dataclass(frozen=True)
class Scene:
    """One colour, shape and motion; its caption says all three."""

    colour: str
    shape: str
    motion: str

    @property
    def caption(self) -> str:
        """The sentence that names it."""
        return TEMPLATES[self.motion].format(colour=self.colour, shape=self.shape)


def parse_caption(caption: str) -> Scene:
    """The scene that a caption names.

    Raises:
        ValueError: the caption is not one of `all_captions()`.
    """
    for motion, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(caption):
            return Scene(match["colour"], match["shape"], motion)
    raise ValueError(f"not a caption of the sprites world: {caption!r}")


def partial_caption(caption: str, colour: bool, shape: bool, motion: bool) -> str:
    """A caption that says only some of colour, shape and motion; "" where nothing is left to say."""
    scene = parse_caption(caption)
    if not (colour or shape or motion):
        return ""
    named = scene.shape if shape else ANY_SHAPE
    full = (TEMPLATES[scene.motion] if motion else "a {colour} {shape}").format(colour=scene.colour, shape=named)
    return full if colour else full.replace(f"{scene.colour} ", "")


def all_scenes() -> list[Scene]:
    """Every scene, motion by motion: 8 motions x 4 colours x 3 shapes = 96."""
    return [Scene(colour, shape, motion) for motion, colour, shape in product(MOTIONS, COLOURS, SHAPES)]


def all_captions() -> list[str]:
    """The caption of every scene."""
    return [scene.caption for scene in all_scenes()]


def held_out_captions() -> list[str]:
    """The 16 captions that the teacher's training never sees: two colour-shape pairs a motion, none over twice."""
    pairs = len(COLOURS) * len(SHAPES)
    scenes = all_scenes()
    chosen: list[str] = []
    for m in range(len(MOTIONS)):
        # 5 and 12 are coprime: so no two motions hold back the same pair per offset.
        for offset in (0, 7):
            chosen.append(scenes[m * pairs + (5 * m + offset) % pairs].caption)
    return chosen


def training_captions() -> list[str]:
    """All captions but the held-out ones."""
    held_out = set(held_out_captions())
    return [caption for caption in all_captions() if caption not in held_out]


def label_names() -> dict[str, list[str]]:
    """Head name -> class names in label order; the motion head has `NO_MOTION` last."""
    return {"colour": list(COLOURS), "shape": list(SHAPES), "motion": [*MOTIONS, NO_MOTION]}


def caption_labels(caption: str) -> dict[str, int]:
    """Head name -> class index for a caption; raises ValueError as `parse_caption` does."""
    scene = parse_caption(caption)
    names = label_names()
    return {head: names[head].index(getattr(scene, head)) for head in names}
