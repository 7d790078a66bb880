"""What a student is trained on: three losses against data and teacher, and the settings of their training.

After BK-SDM (Kim et al. 2023, "BK-SDM: A Lightweight, Fast, and Cheap Version of Stable Diffusion", section
3.2, equations 2 to 4), with motion blocks in place of spatial ones:
L = w_task L_task + w_output L_output + w_feature L_feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from leanmotion.errors import LeanmotionError

TERMS: tuple[str, ...] = ("task", "output", "feature")


class LossWeights(NamedTuple):
    """What each term counts; a term of weight 0 is left out of the gradient."""

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

    def __post_init__(self) -> None:
        weights = self.weights
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
            f"task_weight must be 0 where inputs is {self.inputs}: only noised clips have a target of data": (
                self.inputs == "clips" or self.task_weight == 0
            ),
        }
        if failed := [line for line, good in checks.items() if not good]:
            raise LeanmotionError(f"params.yaml: distillation: {'; '.join(failed)}")

    @property
    def weights(self) -> LossWeights:
        """The weights of the three terms."""
        return LossWeights(self.task_weight, self.output_weight, self.feature_weight)


class Batch(NamedTuple):
    """What networks are shown, and the data's target if there is one; `captions` has one row a frame, for the UNet."""

    noisy: Float[Tensor, "batch channels frames height width"]
    target: Float[Tensor, "batch channels frames height width"] | None
    timesteps: Int[Tensor, "batch"] | Float[Tensor, "batch"]
    captions: Float[Tensor, "batch_frames tokens dim"]


@dataclass(frozen=True)
class Losses:
    """Every term as it is (`raw`; None where it was not to be had), their weights, and both networks' predictions."""

    raw: dict[str, Tensor | None]
    weights: LossWeights
    student: Tensor
    teacher: Tensor | None = None

    @property
    def weighted(self) -> dict[str, Tensor]:
        """Terms that train, times their weights."""
        return {
            name: weight * raw
            for name, weight in zip(TERMS, self.weights, strict=True)
            if weight > 0 and (raw := self.raw[name]) is not None
        }

    @property
    def total(self) -> Tensor:
        """The weighted sum: what is differentiated."""
        return torch.stack(list(self.weighted.values())).sum()


def noised(
    latents: Float[Tensor, "batch channels frames height width"],
    noise: Float[Tensor, "batch channels frames height width"],
    alphas_cumprod: Float[Tensor, "batch"],
    prediction_type: str,
) -> tuple[Tensor, Tensor]:
    """Latents at their timesteps, and what the UNet is to predict there.

    z_t = sqrt(a) z_0 + sqrt(1 - a) noise (Ho et al. 2020, Eq. 4). Target: the noise; or, for `v_prediction`,
    sqrt(a) noise - sqrt(1 - a) z_0 (Salimans and Ho 2022, section 4); or, for `sample`, z_0.

    Raises:
        LeanmotionError: another prediction type.
    """
    alpha = alphas_cumprod.to(latents).sqrt().view(-1, 1, 1, 1, 1)
    sigma = (1 - alphas_cumprod).to(latents).sqrt().view(-1, 1, 1, 1, 1)
    noisy = alpha * latents + sigma * noise
    if prediction_type == "epsilon":
        return noisy, noise
    if prediction_type == "v_prediction":
        return noisy, alpha * noise - sigma * latents
    if prediction_type == "sample":
        return noisy, latents
    raise LeanmotionError(
        f"teacher.base: its scheduler's prediction_type is {prediction_type!r}: distillation knows epsilon, "
        "v_prediction and sample: give another base"
    )


def task_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error against the data's own target: BK-SDM's L_Task."""
    return (prediction.float() - target.float()).square().mean()


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error against the teacher's prediction for the same input: BK-SDM's L_OutKD."""
    return (student.float() - teacher.float()).square().mean()


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], clips: int) -> Tensor:
    """Mean over layers and clips of ||s - t||^2 / ||t||^2.

    BK-SDM's L_FeatKD sums ||s - t||^2 over blocks; there the layers of largest norm drown the rest. Divided
    by the teacher's own norm, a layer that says nothing (s = 0) counts 1 at every depth. The ratio is taken clip
    by clip, so that it does not depend on how a batch is cut into micro-batches.

    Args:
        student: one tensor a layer, [clips * frames, channels, height, width].
        teacher: the same layers.
        clips: clips in the batch.
    """
    ratios = []
    for s, t in zip(student, teacher, strict=True):
        t = t.float().reshape(clips, -1)
        error = (s.float().reshape(clips, -1) - t).square().sum(1)
        # A layer that is exactly 0 in the teacher has no norm to divide by.
        ratios.append((error / t.square().sum(1).clamp_min(1e-12)).mean())
    return torch.stack(ratios).mean()


def feature_blocks(unet: nn.Module) -> dict[str, nn.Module]:
    """The blocks whose outputs are compared, in forward order: `down_0` ..., `mid`, `up_0` ..."""
    net: Any = unet
    blocks = {f"down_{i}": block for i, block in enumerate(net.down_blocks)}
    if net.mid_block is not None:
        blocks["mid"] = net.mid_block
    return blocks | {f"up_{i}": block for i, block in enumerate(net.up_blocks)}


@contextmanager
def block_outputs(unet: nn.Module) -> Iterator[Callable[[], list[Tensor]]]:
    """While it lasts, the outputs of the UNet's blocks are kept, for each thread apart.

    Yields a function that hands over what the calling thread's forward passes have left since it was last asked.
    """
    kept: dict[int, list[Tensor]] = {}

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # A down block returns its output and the residuals that it hands to the up blocks.
        kept.setdefault(get_ident(), []).append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in feature_blocks(unet).values()]
    try:
        yield lambda: kept.pop(get_ident(), [])
    finally:
        for handle in handles:
            handle.remove()


def predict(unet: nn.Module, batch: Batch) -> Tensor:
    """One forward pass: the prediction, shaped like `batch.noisy`."""
    return unet(batch.noisy, batch.timesteps, encoder_hidden_states=batch.captions, return_dict=False)[0]


@contextmanager
def comparison(
    student: nn.Module, teacher: nn.Module, weights: LossWeights, autocast: Callable[[], Any] = nullcontext
) -> Iterator[Callable[[Batch], Losses]]:
    """While it lasts, `losses` of one batch after the other; several threads may ask side by side.

    Hooks are registered once for all of them: a module must not be given one while another thread runs it.
    """
    features = weights.feature > 0

    def compare(batch: Batch) -> Losses:
        raw: dict[str, Tensor | None] = dict.fromkeys(TERMS)
        with autocast():
            prediction = predict(student, batch)
        outputs = of_student()
        if batch.target is not None:
            raw["task"] = task_loss(prediction, batch.target)
        reference = None
        if weights.output > 0 or features:
            with torch.no_grad(), autocast():
                reference = predict(teacher, batch)
            reference_outputs = of_teacher()
            raw["output"] = output_loss(prediction, reference)
            if features:
                raw["feature"] = feature_loss(outputs, reference_outputs, len(batch.noisy))
        return Losses(raw, weights, prediction, reference)

    def watched(unet: nn.Module) -> Any:
        return block_outputs(unet) if features else nullcontext(list)

    with watched(student) as of_student, watched(teacher) as of_teacher:
        yield compare


def losses(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    weights: LossWeights,
    autocast: Callable[[], Any] = nullcontext,
) -> Losses:
    """All terms on one batch, each a mean over clips in float32.

    The teacher is asked once for both of its terms, and not at all if neither counts. `autocast` gives the
    context in which forward passes run.
    """
    with comparison(student, teacher, weights, autocast) as compare:
        return compare(batch)
