"""What all parts of one training share: the two networks, the sampler, the clips, and who takes which of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from leanmotion.distillation.distillation_settings import DistillationSettings
from leanmotion.distillation.lanes import Lanes
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.training_inputs import Clips, Encode
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.processes import Ranks


@dataclass(frozen=True)
class Setup:
    """The arguments of `leanmotion.distillation.training.distil`, and what follows from them.

    Args:
        student: the UNet that trains.
        teacher: the whole UNet.
        scheduler: alpha-bar of all timesteps, and what networks predict.
        clips: what to train on.
        settings: how to train.
        encode: captions to states.
        parameters: of the student, by name: all that trains.
        ranks: the processes that train together.
        sampler: what turns noise into a clip, where it is needed.
        lanes: the shares of a batch that this process computes side by side.
    """

    student: nn.Module
    teacher: nn.Module
    scheduler: Any
    clips: Clips
    settings: DistillationSettings
    encode: Encode
    parameters: dict[str, nn.Parameter]
    ranks: Ranks
    sampler: Drawing | None
    lanes: Lanes

    @cached_property
    def device(self) -> torch.device:
        """Where networks are."""
        return next(iter(self.parameters.values())).device

    @property
    def shares(self) -> int:
        """Micro-batches of a step, over all processes."""
        return shares_of(self.settings, self.ranks)

    @property
    def slots(self) -> list[range]:
        """The places of the batch of each micro-batch that this process works on; those of all are one sequence."""
        size, count = self.settings.batch // self.shares, self.shares // self.ranks.count
        own = range(self.ranks.index * count, (self.ranks.index + 1) * count)
        return [range(share * size, (share + 1) * size) for share in own]

    @property
    def trained(self) -> Sequence[nn.Parameter]:
        """The parameters that train."""
        return list(self.parameters.values())

    @property
    def alphas(self) -> Tensor:
        """Alpha-bar of all timesteps, on the CPU."""
        return self.scheduler.alphas_cumprod.to("cpu", torch.float32)

    @property
    def prediction_type(self) -> str:
        """What networks predict, in diffusers' words."""
        return self.scheduler.config.prediction_type

    @property
    def drawing(self) -> Drawing:
        """The sampler.

        Raises:
            ValueError: there is none.
        """
        if self.sampler is None:
            raise ValueError("distillation draws with these settings: give the sampler as `drawing`")
        return self.sampler

    def autocast(self) -> Any:
        """The context of forward passes.

        Without torch's memory of converted weights: by it several passes would add their gradients in low precision.
        """
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.settings.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype, cache_enabled=False)


def shares_of(settings: DistillationSettings, ranks: Ranks) -> int:
    """Micro-batches of a step over all processes: never larger than the settings ask, as many for each process.

    Raises:
        LeanmotionError: the batch cannot be divided.
    """
    if settings.batch % (shares := math.lcm(settings.accumulate, ranks.count)):
        raise LeanmotionError(
            f"params.yaml: distillation.batch is {settings.batch}: make it a multiple of {shares}, for "
            f"distillation.accumulate {settings.accumulate} on {ranks.count} processes, or launch fewer"
        )
    return shares
