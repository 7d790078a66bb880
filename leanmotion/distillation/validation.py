"""How close a student's clips are to the teacher's of the same noise: what a loss on single steps does not say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.schedule import draw
from leanmotion.distillation.training_inputs import Clips, Encode


@torch.no_grad()
def drawn_distances(
    student: Callable[..., Any],
    teacher: Callable[..., Any],
    candidates: Sequence[Callable[[], None]],
    *,
    drawing: Drawing,
    clips: Clips,
    encode: Encode,
    seed: int,
    positions: range,
    batch: int,
    device: torch.device,
    autocast: Callable[[], Any],
) -> list[float]:
    """The student's distance with each of several weights, the teacher's clips drawn once.

    Mean squared difference of the clips' latents over the mean square of the teacher's: 0 for equal clips, about 2 for
    unrelated ones of the same spread. In latents, not in an extractor's features: distillation then hangs on no
    extractor.

    Args:
        student: takes each candidate's weights in turn, and is left with the last.
        teacher: the reference.
        candidates: each puts its weights into the student.
        drawing: the sampler.
        clips: their captions are drawn.
        encode: captions to states.
        seed: of captions and noise.
        positions: in the sequence of clips and noise; one clip each.
        batch: clips drawn together.
        device: where networks are.
        autocast: context of forward passes.
    """
    errors, scale = [0.0] * len(candidates), 0.0
    for start in range(positions.start, positions.stop, batch):
        part = range(start, min(start + batch, positions.stop))
        latents, captions = clips.batch(clips.order(seed, part.start, len(part)))
        shape = tuple(latents.shape[1:])
        noise = torch.stack([draw(seed, position, shape, 1)[2] for position in part]).to(device)
        states = drawing.states(encode, captions, shape[1], device)
        keys = [f"{seed}|{position}" for position in part]
        with autocast():
            theirs = drawing.drawn(teacher, noise, states, keys)
        scale += float(theirs.square().sum(dtype=torch.float64))
        for i, put in enumerate(candidates):
            put()
            with autocast():
                ours = drawing.drawn(student, noise, states, keys)
            errors[i] += float((ours - theirs).square().sum(dtype=torch.float64))
    return [error / max(scale, 1e-30) for error in errors]
