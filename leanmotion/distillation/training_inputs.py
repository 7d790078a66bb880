"""What networks are shown in training: noised clips, or the latents that one of them meets while it samples.

Clips are noised in closed form, while a sampler shows a network what its own earlier steps have left: the two
differ, the more the further sampling goes (exposure bias: Ning et al. 2023, "Input Perturbation Reduces Exposure Bias
in Diffusion Models", section 3). A student whose loss on noised clips falls may therefore draw worse clips. On the
teacher's trajectory it is asked where the teacher's clips come from (Luhman and Luhman 2021, "Knowledge Distillation in
Iterative Generative Models", section 3; one step at a time, so that the student keeps the sampler). On its own it is
asked where its own errors lead, the teacher saying what to do there (Ross et al. 2011, DAgger, section 3; for language
models Agarwal et al. 2024, "On-Policy Distillation", section 3).

Neither costs a forward pass more than noised clips: the passes of a training step are also the sampler's next step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.distillation.distillation_settings import DistillationSettings
from leanmotion.distillation.losses import Batch, Losses, noised, v_weights
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.schedule import draw
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.digests import tensor_bytes

Encode = Callable[[list[str]], Float[Tensor, "batch tokens dim"]]


@runtime_checkable
class Clips(Protocol):
    """Where clips come from: `CaptionedLatents`, `clip_source.ClipSource`, or anything that can do this."""

    @property
    def digest(self) -> str:
        """Tells two sets of clips apart."""
        ...

    def order(self, seed: int, start: int, count: int) -> list[int]:
        """Indices of the clips at positions `start` to `start + count` of an endless shuffled sequence."""
        ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Latents [batch channels frames height width] and captions."""
        ...


class CaptionedLatents:
    """Clips in memory; as many as a row group holds come in the order of a `ClipSource`.

    Args:
        latents: as the pipeline samples them (`encode_clips`), in float32.
        captions: one a clip.

    Raises:
        LeanmotionError: no clip, another number of captions, or latents that are not finite.
    """

    def __init__(self, latents: Float[Tensor, "clips channels frames height width"], captions: Sequence[str]) -> None:
        if not len(latents) or len(captions) != len(latents):
            raise LeanmotionError(f"clips: {len(latents)} clips and {len(captions)} captions: give one each, of some")
        if not latents.isfinite().all():
            raise LeanmotionError("clips: latents are not finite: check the VAE")
        self.latents, self.captions = latents, list(captions)
        told = repr((tuple(latents.shape), self.captions)).encode()
        self.digest = hashlib.sha256(told + bytes(tensor_bytes(latents))).hexdigest()

    def __len__(self) -> int:
        return len(self.captions)

    def order(self, seed: int, start: int, count: int) -> list[int]:
        """Indices at positions `start` to `start + count` of an endless sequence; every pass has each clip once."""
        places = (divmod(position, len(self)) for position in range(start, start + count))
        return [int(shuffled(len(self), seed, epoch)[place]) for epoch, place in places]

    def batch(self, indices: Sequence[int]) -> tuple[Float[Tensor, "batch channels frames height width"], list[str]]:
        """Latents and captions of these clips, in this order."""
        return self.latents[list(indices)], [self.captions[index] for index in indices]


@lru_cache(maxsize=16)
def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """All numbers below `count`, in the order of one pass over clips."""
    # The 1 is the window of a `ClipSource` that has but one.
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, 1))).permutation(count)


class NoisedClips:
    """Clips at random timesteps, each with noise of its own: a step's batch has positions of its own.

    Args:
        clips: the clips.
        encode: captions to states.
        settings: batch, seed, caption dropout.
        alphas: the scheduler's `alphas_cumprod`, on the CPU.
        prediction_type: the scheduler's.
        device: where batches go.
        grid: the sampler's timesteps and alpha-bar there, if no others are to come.
    """

    def __init__(
        self,
        clips: Clips,
        encode: Encode,
        settings: DistillationSettings,
        alphas: Float[Tensor, " timesteps"],
        prediction_type: str,
        device: torch.device,
        grid: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.clips, self.encode, self.settings = clips, encode, settings
        self.prediction_type, self.device = prediction_type, device
        self.timesteps, self.alphas = (torch.arange(len(alphas)), alphas) if grid is None else grid

    def batch(self, step: int, slots: range) -> Batch:
        """The clips of these places of a step's batch, noised, with their captions."""
        seed, first, count = self.settings.seed, step * self.settings.batch + slots.start, len(slots)
        latents, captions = self.clips.batch(self.clips.order(seed, first, count))
        shape = tuple(latents.shape[1:])
        drawn = [draw(seed, first + i, shape, len(self.alphas)) for i in range(count)]
        chosen = torch.tensor([index for index, _, _ in drawn])
        timesteps, alphas = self.timesteps[chosen], self.alphas[chosen]
        noise = torch.stack([noise for _, _, noise in drawn])
        dropout = self.settings.caption_dropout
        said = ["" if u < dropout else caption for caption, (_, u, _) in zip(captions, drawn, strict=True)]
        noisy, target = noised(latents.float(), noise, alphas, self.prediction_type)
        states = self.encode(said).to(self.device).repeat_interleave(shape[1], dim=0)
        weights = v_weights(alphas, self.prediction_type).to(self.device) if self.settings.compare == "v" else None
        return Batch(noisy.to(self.device), target.to(self.device), timesteps.to(self.device), states, weights)

    def advance(self, step: int, slots: range, found: Losses) -> None:
        """Nothing: no step depends on the one before."""

    def state(self) -> Tensor | None:
        """None: the step's number says all."""
        return None

    def restore(self, state: Tensor | None) -> None:
        """Nothing."""


class Trajectories:
    """Latents of clips that the teacher or the student draws, each place of the batch at a step of its own.

    Place j starts j / batch of a trajectory ahead, which one network draws before the first training step; from then on
    every training step takes each place one sampler step further, and a finished clip makes room for the next
    caption and noise. Every batch so holds timesteps from all over the sampler's grid, and no others.

    Args:
        clips: their captions are drawn, their latents are not looked at.
        encode: captions to states.
        settings: batch, seed, whose trajectory.
        drawing: the sampler.
        prediction_type: the scheduler's.
        network: whose trajectory it is: a UNet, or what calls it.
        device: where batches go.
        slots: places of the batch that this process works on.
        autocast: context of forward passes.
    """

    def __init__(
        self,
        clips: Clips,
        encode: Encode,
        settings: DistillationSettings,
        drawing: Drawing,
        prediction_type: str,
        network: Callable[..., Any],
        device: torch.device,
        slots: range,
        autocast: Callable[[], Any],
    ) -> None:
        self.clips, self.encode, self.settings, self.drawing = clips, encode, settings, drawing
        self.network, self.device, self.slots, self.autocast = network, device, slots, autocast
        self.weights = v_weights(drawing.alphas(), prediction_type).to(device) if settings.compare == "v" else None
        self.shape = tuple(clips.batch([0])[0].shape[1:])
        self.latents: Tensor | None = None

    def batch(self, step: int, slots: range) -> Batch:
        """The latents of these places at a step, as the sampler shows them to the network; no target of data."""
        if self.latents is None:
            self.latents = self._run_in()
        at = [self._at(step, slot) for slot in slots]
        for slot, (number, index) in zip(slots, at, strict=True):
            if index == 0:
                self.latents[slot - self.slots.start] = self._noise([number * self.settings.batch + slot])[0]
        shown = torch.cat(
            [self.drawing.shown(self._latents(slot), index) for slot, (_, index) in zip(slots, at, strict=True)]
        )
        timesteps = torch.tensor([self.drawing.timestep(index) for _, index in at], device=self.device)
        states = self._states(
            [number * self.settings.batch + slot for slot, (number, _) in zip(slots, at, strict=True)]
        )
        shares = len(states) // len(shown) // self.shape[1]
        weights = None if self.weights is None else self.weights[[index for _, index in at]].repeat(shares)
        return Batch(shown.repeat(shares, 1, 1, 1, 1), None, timesteps.repeat(shares), states, weights)

    def advance(self, step: int, slots: range, found: Losses) -> None:
        """One sampler step on, by the network's prediction at hand."""
        prediction = found.student if self.settings.inputs == "student" else found.teacher
        assert prediction is not None and self.latents is not None
        guided = self.drawing.guided(prediction.detach().float())
        for i, slot in enumerate(slots):
            number, index = self._at(step, slot)
            key = number * self.settings.batch + slot
            self.latents[slot - self.slots.start] = self.drawing.stepped(
                guided[i : i + 1], self._latents(slot), index, [self._key(key)]
            )[0]

    def state(self) -> Tensor | None:
        """The latents of all places, for the checkpoint."""
        return self.latents

    def restore(self, state: Tensor | None) -> None:
        """Latents of a checkpoint."""
        self.latents = None if state is None else state.clone().to(self.device)

    def _at(self, step: int, slot: int) -> tuple[int, int]:
        """How many clips a place has finished at a training step, and the sampler step that it is at."""
        return divmod(self._ahead(slot) + step, self.drawing.steps)

    def _ahead(self, slot: int) -> int:
        return slot * self.drawing.steps // self.settings.batch

    def _latents(self, slot: int) -> Tensor:
        assert self.latents is not None
        place = slot - self.slots.start
        return self.latents[place : place + 1]

    @torch.no_grad()
    def _run_in(self) -> Tensor:
        latents = self._noise(list(self.slots))
        for index in range(max(map(self._ahead, self.slots))):
            ahead = [place for place, slot in enumerate(self.slots) if self._ahead(slot) > index]
            keys = [self.slots[place] for place in ahead]
            with self.autocast():
                prediction = self.drawing.predicted(self.network, latents[ahead], index, self._states(keys))
            latents[ahead] = self.drawing.stepped(prediction, latents[ahead], index, [self._key(key) for key in keys])
        return latents

    def _noise(self, positions: list[int]) -> Tensor:
        seed = self.settings.seed
        noise = torch.stack([draw(seed, position, self.shape, 1)[2] for position in positions])
        return noise.to(self.device) * self.drawing.sigma

    def _states(self, positions: list[int]) -> Tensor:
        found = [self.clips.order(self.settings.seed, position, 1)[0] for position in positions]
        return self.drawing.states(self.encode, self.clips.batch(found)[1], self.shape[1], self.device)

    def _key(self, position: int) -> str:
        return f"{self.settings.seed}|{position}"
