"""The sampler's steps on latents, one at a time: what distillation needs of drawing, without text, VAE or frames."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.errors import LeanmotionError

Latents = Float[Tensor, "clips channels frames height width"]

ONE_STEP = ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "LCMScheduler")
"""Schedulers whose step needs nothing of the steps before: clips at different steps can share a batch."""


class Drawing:
    """A diffusers scheduler, its number of steps and the guidance: what turns noise into a clip's latents.

    Latents are [clips, channels, frames, height, width], as the pipeline has them before its VAE.

    Args:
        scheduler: as the sampler has it; it is copied.
        steps: of the sampler.
        guidance: 1 is none; above, networks are asked with the negative prompt too.
        negative: the negative prompt.
        chunk: whole clips that are drawn together where nothing is trained; None: as many as a micro-batch has.

    Raises:
        LeanmotionError: a scheduler that remembers earlier steps.
    """

    def __init__(
        self, scheduler: Any, steps: int, guidance: float, negative: str = "", chunk: int | None = None
    ) -> None:
        kind = type(scheduler).__name__
        if kind not in ONE_STEP:
            raise LeanmotionError(
                f"sampling.scheduler: distillation cannot draw with a {kind}: choose ddim, euler or lcm, or set "
                "distillation.inputs to clips and distillation.validation to 0"
            )
        self.scheduler = type(scheduler).from_config(scheduler.config)
        self.steps, self.guidance, self.negative, self.chunk = steps, guidance, negative, chunk
        self.digest = hashlib.sha256(
            json.dumps(
                [kind, dict(scheduler.config), steps, guidance, negative, chunk], sort_keys=True, default=str
            ).encode()
        ).hexdigest()
        self._noisy = "generator" in inspect.signature(self.scheduler.step).parameters
        self._reset(0)
        self.sigma = float(self.scheduler.init_noise_sigma)

    def timestep(self, index: int) -> int | float:
        """What networks are told at a sampler step, 0 being the first."""
        return self.scheduler.timesteps[index].item()

    def shown(self, latents: Latents, index: int) -> Latents:
        """Latents as networks are shown them at a sampler step."""
        return self.scheduler.scale_model_input(latents, self._reset(index))

    def states(
        self, encode: Callable[[list[str]], Tensor], captions: list[str], frames: int, device: torch.device
    ) -> Float[Tensor, "rows tokens dim"]:
        """Caption states for `predicted`: one row a frame; those of the negative prompt first, where it is asked."""
        said = [self.negative] * len(captions) + captions if self.guidance > 1 else captions
        return encode(said).to(device).repeat_interleave(frames, dim=0)

    def predicted(
        self, network: Callable[..., Any], latents: Latents, index: int, states: Float[Tensor, "rows tokens dim"]
    ) -> Latents:
        """A network's guided prediction for clips that are all at one sampler step, in float32."""
        shown = self.shown(latents, index)
        both = torch.cat([shown] * 2) if self.guidance > 1 else shown
        timestep = torch.tensor(self.timestep(index), device=latents.device)
        return self.guided(network(both, timestep, encoder_hidden_states=states, return_dict=False)[0].float())

    def guided(self, prediction: Tensor) -> Tensor:
        """Classifier-free guidance (Ho and Salimans 2022, Eq. 6), where there is any."""
        if self.guidance <= 1:
            return prediction
        without, with_text = prediction.chunk(2)
        return without + self.guidance * (with_text - without)

    def stepped(self, prediction: Latents, latents: Latents, index: int, keys: Sequence[str]) -> Latents:
        """Latents one sampler step on. `keys`: a name a clip, which seeds the noise of schedulers that add some."""
        timestep = self._reset(index)
        extra = {}
        if self._noisy:
            extra["generator"] = [_generator(f"step|{key}|{index}") for key in keys]
        return self.scheduler.step(prediction, timestep, latents, return_dict=False, **extra)[0]

    def drawn(
        self,
        network: Callable[..., Any],
        noise: Latents,
        states: Float[Tensor, "rows tokens dim"],
        keys: Sequence[str],
        *,
        last: int = 0,
    ) -> Latents:
        """Whole clips' latents from unit noise. Gradients run through the last `last` steps, if they are asked for."""
        latents = noise * self.sigma
        for index in range(self.steps):
            with nullcontext() if index >= self.steps - last else torch.no_grad():
                latents = self.stepped(self.predicted(network, latents, index, states), latents, index, keys)
        return latents

    def apart(self) -> Drawing:
        """The same, for another thread: a scheduler stands at one step at a time."""
        return copy.deepcopy(self)

    def alphas(self) -> Float[Tensor, " steps"]:
        """Alpha-bar at each of the sampler's steps: networks are shown sqrt(a) z_0 + sqrt(1 - a) noise there."""
        self._reset(0)
        if (sigmas := getattr(self.scheduler, "sigmas", None)) is not None:
            # Karras et al. 2022, Table 1: its latents are z_0 + sigma noise, shown over sqrt(1 + sigma^2).
            return 1 / (1 + sigmas[: self.steps].to("cpu", torch.float32).square())
        return self.scheduler.alphas_cumprod[self.scheduler.timesteps.long()].to("cpu", torch.float32)

    def _reset(self, index: int) -> Tensor:
        """The timestep of a step, the scheduler standing at it whatever was asked before."""
        self.scheduler.set_timesteps(self.steps)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(index)
        return self.scheduler.timesteps[index]


def _generator(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1)
