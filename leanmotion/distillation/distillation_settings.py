"""How a student is trained: the library's own settings, with what cannot be meant refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from leanmotion.errors import LeanmotionError


class LossWeights(NamedTuple):
    """What each term of single steps counts; a term of weight 0 is left out of the gradient."""

    task: float
    output: float
    feature: float


@dataclass(frozen=True)
class DistillationSettings:
    """How a student is trained; nothing here says where (device, processes).

    Args:
        steps: optimiser steps.
        batch: clips of a step, over all processes and micro-batches.
        learning_rate: its highest value, after `warmup` steps of linear rise.
        warmup: steps of rise.
        decay: what follows: half a cosine down to 0 at `steps`, or no change.
        clip_norm: largest norm of the gradient over all trained parameters.
        ema: decay of the weights' moving average, which is what is evaluated; 0 keeps the last weights.
        task_weight: of the noise prediction on data.
        output_weight: of the teacher's prediction.
        feature_weight: of the outputs of the teacher's blocks.
        trainable: `motion` (all motion modules), or a list of their parts: see `leanmotion.distillation.trainable`.
        precision: of the forward passes; weights, losses and optimiser stay in float32.
        checkpoint_every: steps between checkpoints.
        accumulate: micro-batches of a step, over all processes; more where the processes do not divide them.
        seed: of clip order, timesteps and noise.
        explode: a loss this many times its running median is divergence.
        weight_decay: AdamW's.
        caption_dropout: share of clips whose caption is replaced by the empty one, for guidance.
        validation: clips drawn from fresh noise, which the trained weights must bring closer to the teacher's than the
            ones before training do, or these are kept; 0 keeps the trained ones unasked.
        inputs: what networks are shown: noised clips, or what teacher or student meet while they sample
            (`leanmotion.distillation.training_inputs`).
        objective: the teacher's predictions, step by step (`steps`: all of the above), or where its sampling ends
            (`endpoint`: `leanmotion.distillation.end_points`, which knows neither terms nor inputs).
        last_steps: of an end point, how many of the sampler's last steps the gradient runs through.
        endpoint_clips: end points that the teacher draws to train on.
        compare: differences of predictions as they are (`output`), or as the v that they stand for (`v`).
        timesteps: of noised clips: any, or those that the sampler asks for alone.

    The three terms are BK-SDM's (Kim et al. 2023, section 3.2, Equations 2 to 4), the optimiser AdamW.

    Raises:
        LeanmotionError: a value that cannot be meant.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 0
    decay: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = 1.0
    ema: float = 0.0
    task_weight: float = 0.0
    output_weight: float = 1.0
    feature_weight: float = 1.0
    trainable: str | Sequence[str] = "motion"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_every: int = 100
    accumulate: int = 1
    seed: int = 0
    explode: float = 20.0
    weight_decay: float = 0.01
    caption_dropout: float = 0.0
    validation: int = 0
    inputs: Literal["clips", "teacher", "student"] = "clips"
    objective: Literal["steps", "endpoint"] = "steps"
    last_steps: int = 2
    endpoint_clips: int = 256
    compare: Literal["output", "v"] = "output"
    timesteps: Literal["all", "sampler"] = "all"

    def __post_init__(self) -> None:
        weights = self.weights
        where = "objective is endpoint" if self.objective == "endpoint" else f"inputs is {self.inputs}"
        checks = {
            "steps must be 0 or more": self.steps >= 0,
            "batch must be 1 or more": self.batch >= 1,
            "accumulate must be 1 or more": self.accumulate >= 1,
            "accumulate must divide batch": self.accumulate >= 1 and self.batch % self.accumulate == 0,
            "learning_rate must be above 0": self.learning_rate > 0,
            "warmup must be 0 or more": self.warmup >= 0,
            "clip_norm must be above 0": self.clip_norm > 0,
            "ema must be in [0, 1)": 0 <= self.ema < 1,
            "the three weights must be 0 or more, and one above 0": min(weights) >= 0 and max(weights) > 0,
            "checkpoint_every must be 1 or more": self.checkpoint_every >= 1,
            "explode must be above 1": self.explode > 1,
            "validation must be 0 or more": self.validation >= 0,
            "caption_dropout must be in [0, 1]": 0 <= self.caption_dropout <= 1,
            "last_steps must be 1 or more": self.last_steps >= 1,
            "endpoint_clips must be 1 or more": self.endpoint_clips >= 1,
            f"task_weight must be 0 where {where}: only noised clips have a target of data": (
                self.task_weight == 0 or (self.inputs == "clips" and self.objective == "steps")
            ),
        }
        if failed := [line for line, good in checks.items() if not good]:
            raise LeanmotionError(f"params.yaml: distillation: {'; '.join(failed)}")

    @property
    def weights(self) -> LossWeights:
        """The weights of the three terms."""
        return LossWeights(self.task_weight, self.output_weight, self.feature_weight)
