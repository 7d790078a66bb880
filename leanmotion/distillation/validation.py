"""How close a student's clips are to the teacher's of the same noise: what a loss on single steps does not say."""

from __future__ import annotations

import torch

from leanmotion.distillation.setup import Setup
from leanmotion.distillation.teacher_clips import TeacherClips


@torch.no_grad()
def drawn_distance(setup: Setup, reference: TeacherClips) -> float:
    """How far the clips are that the student draws as it is.

    Mean squared difference of the clips' latents over the mean square of the teacher's: 0 for equal clips, about 2 for
    unrelated ones of the same spread. In latents, not in an extractor's features: distillation then hangs on no
    extractor.

    Args:
        setup: the student, and the sampler.
        reference: the teacher's clips.
    """
    reference.prepare()
    student = setup.lanes.drawing(setup.student, setup.autocast)
    error, count = 0.0, 0
    for part in reference.parts():
        noise, states, keys, theirs = reference.batch(part)
        with setup.autocast():
            ours = setup.drawing.drawn(student, noise, states, keys)
        error += float((ours.float() - theirs).square().sum(dtype=torch.float64))
        count += theirs.numel()
    return error / count / max(reference.mean_square, 1e-30)
