"""What a training step makes small: the teacher's predictions step by step, or where its sampling ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from leanmotion.distillation.end_points import EndPoints
from leanmotion.distillation.lanes import frames_of
from leanmotion.distillation.losses import TERMS, Batch, Losses, comparison
from leanmotion.distillation.setup import Setup
from leanmotion.distillation.teacher_clips import TeacherClips
from leanmotion.distillation.training_inputs import NoisedClips, Trajectories


@runtime_checkable
class Objective(Protocol):
    """What the loop asks of an objective. Nothing random is in it but by the number of the step."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Term -> its weight in what is differentiated; of weight 0: only watched."""
        ...

    def prepare(self) -> None:
        """Whatever has to be there before the first step."""
        ...

    def backward(self, step: int, slots: range, factor: Tensor) -> Mapping[str, Tensor | None]:
        """The terms on these places of a step's batch, means over them; adds the gradient of their weighted sum,
        times `factor`, to the parameters.
        """
        ...

    def captions(self, step: int) -> list[str]:
        """What the clips of a step show."""
        ...

    def state(self) -> Tensor | None:
        """What a checkpoint must hold besides the number of steps, of this process's places of the batch."""
        ...

    def restore(self, state: Tensor | None) -> None:
        """What `state` gave."""
        ...


def objective_of(setup: Setup, end_points: TeacherClips) -> Objective:
    """The objective of the settings. `end_points`: the teacher's, drawn only if they are needed."""
    return SingleSteps(setup) if setup.settings.objective == "steps" else EndPoints(setup, end_points)


class SingleSteps:
    """The objective `steps`: the terms of `leanmotion.distillation.losses`, on whatever inputs the settings name."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        settings, lanes = setup.settings, setup.lanes
        self.weights = dict(zip(TERMS, settings.weights, strict=True))
        self.inputs: NoisedClips | Trajectories
        if settings.inputs == "clips":
            grid = None
            if settings.timesteps == "sampler":
                steps = setup.drawing.steps
                grid = torch.tensor([setup.drawing.timestep(i) for i in range(steps)]), setup.drawing.alphas()
            self.inputs = NoisedClips(
                setup.clips, setup.encode, settings, setup.alphas, setup.prediction_type, setup.device, grid
            )
        else:
            whose = lanes.drawing(setup.student if settings.inputs == "student" else setup.teacher, setup.autocast)
            places = range(setup.slots[0].start, setup.slots[-1].stop)
            self.inputs = Trajectories(
                setup.clips, setup.encode, settings, setup.drawing, setup.prediction_type, whose, setup.device, places,
                setup.autocast,
            )  # fmt: skip

    def prepare(self) -> None:
        """Nothing."""

    def backward(self, step: int, slots: range, factor: Tensor) -> dict[str, Tensor | None]:
        """The three terms; one that is not asked for, or that these inputs do not have, is None."""
        batch = self.inputs.batch(step, slots)
        found = compared(self.setup, batch, factor)
        self.inputs.advance(step, slots, found)
        return {name: None if raw is None else raw.detach() for name, raw in found.raw.items()}

    def captions(self, step: int) -> list[str]:
        """Of the clips whose turn it is; trajectories that began earlier go on beside them."""
        settings, clips = self.setup.settings, self.setup.clips
        return clips.batch(clips.order(settings.seed, step * settings.batch, settings.batch))[1]

    def state(self) -> Tensor | None:
        """Trajectories that are under way."""
        return self.inputs.state()

    def restore(self, state: Tensor | None) -> None:
        """Trajectories of a checkpoint."""
        self.inputs.restore(state)


def compared(setup: Setup, batch: Batch, factor: Tensor) -> Losses:
    """All terms on a batch, in lanes; adds the gradient of their total, times `factor`, to the parameters."""
    with comparison(setup.student, setup.teacher, setup.settings.weights, setup.autocast) as compare:

        def loss(share: Batch) -> tuple[Tensor, Losses]:
            found = compare(share)
            return found.total, found.detached()

        rows = len(batch.noisy)
        shares = setup.lanes.backward(setup.trained, rows, lambda cut: _some(batch, cut), loss, factor)
    raw: dict[str, Tensor | None] = {}
    for name in TERMS:
        values = [value * part for found, part in shares if (value := found.raw[name]) is not None]
        raw[name] = torch.stack(values).sum() if values else None
    teachers = [found.teacher for found, _ in shares if found.teacher is not None]
    student = torch.cat([found.student for found, _ in shares])
    return Losses(raw, setup.settings.weights, student, torch.cat(teachers) if teachers else None)


def _some(batch: Batch, rows: slice) -> Batch:
    target = None if batch.target is None else batch.target[rows]
    weights = None if batch.weights is None else batch.weights[rows]
    captions = frames_of(batch.captions, rows, len(batch.noisy))
    return Batch(batch.noisy[rows], target, batch.timesteps[rows], captions, weights)
