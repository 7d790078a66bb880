"""The way from noise to a clip's latents, one sampler step at a time, as `leanmotion.model.sampler` draws it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.model.requests import Request
from leanmotion.model.sampler import encode_prompts, latent_shape, make_scheduler
from leanmotion.pipeline.settings import Sampling

Latents = Float[Tensor, "clips channels frames height width"]


class Trajectory:
    """Clips that are drawn together and stand at one step of the sampler. Prompts, noise and guidance as in sampling.

    Args:
        pipeline: of the model; its UNet is not called here.
        settings: of sampling.
        requests: a clip each.
        device: where latents are.
    """

    def __init__(self, pipeline: Any, settings: Sampling, requests: Sequence[Request], device: str) -> None:
        self.guidance = settings.guidance
        texts = encode_prompts(pipeline, [r.prompt for r in requests])
        if self.guided:
            texts = torch.cat([encode_prompts(pipeline, [r.negative for r in requests]), texts])
        self._texts = texts.repeat_interleave(settings.frames, dim=0).to(device)
        self._generators = [torch.Generator("cpu").manual_seed(r.seed) for r in requests]
        shape = latent_shape(pipeline, settings)
        noise = torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in self._generators])
        self.scheduler = make_scheduler(pipeline.scheduler, settings.scheduler)
        self.scheduler.set_timesteps(settings.steps, device=device)
        self.latents: Latents = noise.to(device, texts.dtype) * self.scheduler.init_noise_sigma
        self._adds_noise = "generator" in inspect.signature(self.scheduler.step).parameters

    @property
    def guided(self) -> bool:
        """Whether the UNet is asked with the negative prompt too."""
        return self.guidance > 1

    @property
    def timesteps(self) -> Float[Tensor, " steps"] | Any:
        """Of the calls of the UNet, in the order of sampling."""
        return self.scheduler.timesteps

    def inputs(self, step: int) -> dict[str, Any]:
        """The UNet's keyword arguments at a step, where the latents stand."""
        timestep = self.timesteps[step]
        both = torch.cat([self.latents] * 2) if self.guided else self.latents
        sample = self.scheduler.scale_model_input(both, timestep)
        return {"sample": sample, "timestep": timestep, "encoder_hidden_states": self._texts}

    def prediction(self, output: Float[Tensor, "calls channels frames height width"]) -> Latents:
        """What the scheduler is given of a UNet's output: classifier-free guidance (Ho and Salimans 2022, Eq. 6)."""
        if not self.guided:
            return output
        without, with_text = output.chunk(2)
        return without + self.guidance * (with_text - without)

    def advance(self, prediction: Latents, step: int) -> None:
        """Take the sampler's step; steps follow one another."""
        extra = {"generator": self._generators} if self._adds_noise else {}
        self.latents = self.scheduler.step(prediction, self.timesteps[step], self.latents, return_dict=False, **extra)[
            0
        ]
