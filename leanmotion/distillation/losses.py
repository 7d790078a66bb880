"""What a student is trained on, step by step: three losses against data and teacher.

After BK-SDM (Kim et al. 2023, "BK-SDM: A Lightweight, Fast, and Cheap Version of Stable Diffusion", section
3.2, equations 2 to 4), with motion blocks in place of spatial ones:
L = w_task L_task + w_output L_output + w_feature L_feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from leanmotion.distillation.distillation_settings import LossWeights
from leanmotion.errors import LeanmotionError

TERMS: tuple[str, ...] = ("task", "output", "feature")

LARGEST_V_WEIGHT = 1000.0
"""Bound of `v_weights`. No schedule in use reaches it (AnimateDiff's ends at 1 / alpha-bar = 633, Stable Diffusion's at
215); it keeps one that ends at pure noise, where a predicted noise says nothing of the clip, from an infinite weight.
"""


class Batch(NamedTuple):
    """What networks are shown, and the data's target if there is one; `captions` has one row a frame, for the UNet.

    `weights`: what the squared difference of two predictions counts for each clip; None: 1.
    """

    noisy: Float[Tensor, "batch channels frames height width"]
    target: Float[Tensor, "batch channels frames height width"] | None
    timesteps: Int[Tensor, "batch"] | Float[Tensor, "batch"]
    captions: Float[Tensor, "batch_frames tokens dim"]
    weights: Float[Tensor, "batch"] | None = None


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

    def detached(self) -> Losses:
        """The same values, without what leads to them."""
        raw = {name: None if value is None else value.detach() for name, value in self.raw.items()}
        return Losses(raw, self.weights, self.student.detach(), self.teacher)


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


def v_weights(alphas_cumprod: Float[Tensor, "batch"], prediction_type: str) -> Float[Tensor, "batch"]:
    """What a squared difference of predictions counts as one of v = alpha noise - sigma z_0, by timestep.

    On the same z_t = alpha z_0 + sigma noise (alpha^2 + sigma^2 = 1) each kind of prediction decides the others: v is
    (noise - sigma z_t) / alpha, and it is (alpha z_t - z_0) / sigma. So a difference of v is that of noise over alpha,
    and that of z_0 over sigma: weights 1 / alpha-bar and 1 / (1 - alpha-bar), at most `LARGEST_V_WEIGHT`.

    Raises:
        LeanmotionError: another prediction type.
    """
    kinds = {"epsilon": alphas_cumprod, "sample": 1 - alphas_cumprod, "v_prediction": torch.ones_like(alphas_cumprod)}
    if prediction_type not in kinds:
        raise LeanmotionError(f"scheduler: prediction_type {prediction_type!r} is not one that distillation knows")
    return (1 / kinds[prediction_type]).clamp_max(LARGEST_V_WEIGHT)


def task_loss(prediction: Tensor, target: Tensor, weights: Float[Tensor, "batch"] | None = None) -> Tensor:
    """Mean squared error against the data's own target, clips by weight: BK-SDM's L_Task."""
    return _mean_square(prediction, target, weights)


def output_loss(student: Tensor, teacher: Tensor, weights: Float[Tensor, "batch"] | None = None) -> Tensor:
    """Mean squared error against the teacher's prediction for the same input, clips by weight: BK-SDM's L_OutKD."""
    return _mean_square(student, teacher, weights)


def _mean_square(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    error = (a.float() - b.float()).square()
    return error.mean() if weights is None else (error.flatten(1).mean(1) * weights).mean()


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
    """While it lasts, all terms on one batch after the other; several threads may ask side by side.

    Each term is a mean over clips in float32. The teacher is asked once for both of its terms, and not at all if
    neither counts. `autocast` gives the context in which forward passes run.

    Hooks are registered once for all of them: a module must not be given one while another thread runs it.
    """
    features = weights.feature > 0

    def compare(batch: Batch) -> Losses:
        raw: dict[str, Tensor | None] = dict.fromkeys(TERMS)
        with autocast():
            prediction = predict(student, batch)
        outputs = of_student()
        if batch.target is not None:
            raw["task"] = task_loss(prediction, batch.target, batch.weights)
        reference = None
        if weights.output > 0 or features:
            with torch.no_grad(), autocast():
                reference = predict(teacher, batch)
            reference_outputs = of_teacher()
            raw["output"] = output_loss(prediction, reference, batch.weights)
            if features:
                raw["feature"] = feature_loss(outputs, reference_outputs, len(batch.noisy))
        return Losses(raw, weights, prediction, reference)

    def watched(unet: nn.Module) -> Any:
        return block_outputs(unet) if features else nullcontext(list)

    with watched(student) as of_student, watched(teacher) as of_teacher:
        yield compare
