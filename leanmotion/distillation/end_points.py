"""Distilling end points: from the same noise, the student's sampling is to end where the teacher's does.

Losses on single steps ask what a network says about a latent; what counts is where its answers lead. Here the
student draws whole clips, and the mean squared difference of their latents to the teacher's, which validation measures
too, is differentiated through the sampler's last K steps; those before run without gradient, and the latent that they
lead to is taken as given. K = all steps is the whole gradient. EcoDiff (Zhang et al. 2024, "Effortless Efficiency:
Low-Cost Pruning of Diffusion Models", arXiv 2412.02852, section 3) learns masks against this difference; here it
repairs weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.setup import Setup
from leanmotion.distillation.teacher_clips import Drawn, TeacherClips
from leanmotion.distillation.training_inputs import shuffled


class _Share(NamedTuple):
    drawn: Drawn
    drawing: Drawing


class EndPoints:
    """The objective `endpoint`: each step of the optimiser draws `batch` clips, every pass has each end point once.

    Args:
        setup: of the training.
        targets: the teacher's end points.
    """

    def __init__(self, setup: Setup, targets: TeacherClips) -> None:
        self.setup, self.targets = setup, targets
        self.weights = {"endpoint": 1.0}

    def prepare(self) -> None:
        """Have the teacher draw."""
        self.targets.prepare()

    def backward(self, step: int, slots: range, factor: Tensor) -> dict[str, Tensor]:
        """The loss on these places of a step's batch; adds its gradient, times `factor`, to the parameters.

        The loss is the mean squared difference over the mean square of all of the teacher's end points.
        """
        setup, positions = self.setup, self._positions(step, slots)

        def take(rows: slice) -> _Share:
            return _Share(self.targets.batch(positions[rows]), setup.drawing.apart())

        found = setup.lanes.backward(setup.trained, len(positions), take, self._loss, factor)
        return {"endpoint": torch.stack([loss * part for loss, part in found]).sum()}

    def captions(self, step: int) -> list[str]:
        """Of all end points of a step."""
        return self.targets.captions(self._positions(step, range(self.setup.settings.batch)))

    def state(self) -> Tensor | None:
        """None: the step's number says all."""
        return None

    def restore(self, state: Tensor | None) -> None:
        """Nothing."""

    def _loss(self, share: _Share) -> tuple[Tensor, Tensor]:
        (noise, states, keys, theirs), last = share.drawn, self.setup.settings.last_steps
        with self.setup.autocast():
            ours = share.drawing.drawn(self.setup.student, noise, states, keys, last=last)
        loss = (ours.float() - theirs).square().mean() / max(self.targets.mean_square, 1e-30)
        return loss, loss.detach()

    def _positions(self, step: int, slots: range) -> list[int]:
        """The end points of these places of a step's batch, in an endless sequence of passes."""
        settings, count = self.setup.settings, len(self.targets)
        found = []
        for slot in slots:
            epoch, place = divmod(step * settings.batch + slot, count)
            found.append(self.targets.positions[int(shuffled(count, settings.seed, epoch)[place])])
        return found
