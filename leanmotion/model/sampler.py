"""Prompts and seeds -> frames, in batches of fixed size, each clip from its own seed's noise.

The loop is AnimateDiffPipeline's (text, DDIM or another scheduler, VAE), written out so that a batch holds many
prompts with a seed each, decoding is batched too, and a value that is not finite stops it at once.
"""

import inspect
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.model.memory import place
from leanmotion.model.requests import Request
from leanmotion.pipeline.setting_address import added
from leanmotion.pipeline.settings import Sampling

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline

_DECODE = 16
"""Frames that the VAE decodes at once, as in the stock pipeline. More are slower on CPUs (64: 1.8 times the time): the
C library returns every temporary above 32 MB to the system, and the kernel hands its pages out anew each time.
"""


class Sampler:
    """Draws clips with one pipeline: `sampler(requests)` gives uint8 RGB [clips, frames, height, width, 3].

    AnimateDiff's sampling: by default the pipeline's own scheduler (DDIM: Song et al. 2021, Equation 12), with
    classifier-free guidance (Ho and Salimans 2022, Equation 6). It draws with whatever UNet the pipeline then has, so
    units may be removed in between. Networks are put into eval mode and take no gradients.

    Args:
        pipeline: With whatever units already removed.
        settings: Frames, size, steps, guidance, scheduler, chunk.
        device: Where the networks run; noise is always drawn on the CPU.

    Raises:
        LeanmotionError: An environment variable that saves memory says what there is not (`leanmotion.memory`); or
            the scheduler cannot sample that many steps.
    """

    def __init__(self, pipeline: "AnimateDiffPipeline", settings: Sampling, device: str = "cpu") -> None:
        self.pipeline = place(pipeline, device)
        self.settings = settings
        self.device = device
        self._tokenizing = Lock()  # a tokenizer that pads must not be asked from two threads
        self.scheduler = working_scheduler(pipeline.scheduler, settings)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.eval().requires_grad_(False)
        if settings.attention == "eager":
            from diffusers.models.attention_processor import AttnProcessor

            pipeline.unet.set_attn_processor(AttnProcessor())
        vae: Any = pipeline.vae
        vae.enable_slicing() if settings.vae_slicing else vae.disable_slicing()
        vae.enable_tiling() if settings.vae_tiling else vae.disable_tiling()
        if settings.torch_compile:
            compile_blocks(pipeline.unet)
        if added(settings.torch_compile):
            from leanmotion.model.compiling import compile_modules

            compile_modules(pipeline.unet)

    @torch.inference_mode()
    def __call__(self, requests: Sequence[Request]) -> UInt8[np.ndarray, "clips frames height width 3"]:
        """Draw one clip a request, `settings.chunk` at a time; the last batch is padded with its last request.

        Raises:
            LeanmotionError: Latents or pictures are not finite, or the VAE cannot make this size.
            ValueError: No request.
        """
        size = self.settings.chunk
        batches = [requests[i : i + size] for i in range(0, len(requests), size)]
        return np.concatenate([self._batch(batch) for batch in batches])

    @torch.inference_mode()
    def pictures(self, requests: Sequence[Request]) -> Float[Tensor, "clips frames 3 height width"]:
        """The same clips as numbers in [0, 1], before they are rounded to bytes; at most `settings.chunk` of them.

        Raises:
            LeanmotionError: Latents or pictures are not finite.
        """
        # Bytes are promised for a fixed batch size only: kernels choose their blocking by it.
        padded = [*requests, *[requests[-1]] * (self.settings.chunk - len(requests))]
        # Of each share, which is padded alike, the clips that were asked for.
        size = len(padded) // self.lanes()
        shares = [(padded[i : i + size], requests[i : i + size]) for i in range(0, len(padded), size)]
        with _timestep_embedded_once(self.pipeline.unet):
            if len(shares) == 1:
                return self._drawn(*shares[0])
            with one_thread_a_call(), ThreadPoolExecutor(len(shares)) as pool:
                return torch.cat(list(pool.map(self._drawn, *zip(*shares, strict=True))))

    def lanes(self) -> int:
        """How many shares of a chunk are drawn side by side, each on a core of its own.

        Small networks leave cores idle that share a call. Hooks may keep state from call to call, and compilers too.
        """
        lanes, on_cpu = torch.get_num_threads(), torch.device(self.device).type == "cpu"
        if lanes == 1 or self.settings.chunk % lanes or self.settings.torch_compile or not on_cpu:
            return 1
        watched = any(m._forward_hooks or m._forward_pre_hooks for m in self.pipeline.unet.modules())
        return 1 if watched else lanes

    @torch.inference_mode()
    def _drawn(self, padded: Sequence[Request], requests: Sequence[Request]) -> Float[Tensor, "clips frames 3 h w"]:
        latents = self._denoise(padded)
        _require_finite(latents, requests, "latents")
        pictures = self._decode(latents)
        _require_finite(pictures, requests, "pictures")  # as bytes, NaN would be plain black
        return pictures[: len(requests)]

    def _batch(self, requests: Sequence[Request]) -> np.ndarray:
        pictures = self.pictures(requests)
        return (pictures * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()

    def _denoise(self, requests: Sequence[Request]) -> Float[Tensor, "clips channels frames height width"]:
        guided = self.settings.guidance > 1
        with self._tokenizing:
            texts = encode_prompts(self.pipeline, [r.prompt for r in requests])
            if guided:
                texts = torch.cat([encode_prompts(self.pipeline, [r.negative for r in requests]), texts])
        texts = texts.repeat_interleave(self.settings.frames, dim=0)
        generators = [torch.Generator("cpu").manual_seed(r.seed) for r in requests]
        shape = latent_shape(self.pipeline, self.settings)
        noise = torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])
        scheduler = type(self.scheduler).from_config(self.scheduler.config)  # of this batch alone: it counts steps
        scheduler.set_timesteps(self.settings.steps, device=self.device)
        latents = noise.to(self.device, texts.dtype) * scheduler.init_noise_sigma
        extra = {"generator": generators} if "generator" in _step_arguments(scheduler) else {}
        for timestep in scheduler.timesteps:
            sample = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
            prediction = self.pipeline.unet(sample, timestep, encoder_hidden_states=texts, return_dict=False)[0]
            if guided:
                without, with_text = prediction.chunk(2)
                prediction = without + self.settings.guidance * (with_text - without)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **extra)[0]
        return latents

    def _decode(
        self, latents: Float[Tensor, "clips channels frames height width"]
    ) -> Float[Tensor, "clips frames 3 picture_height picture_width"]:
        vae: Any = self.pipeline.vae
        clips, channels, frames, height, width = latents.shape
        flat = latents.permute(0, 2, 1, 3, 4).reshape(clips * frames, channels, height, width)
        flat = flat / vae.config.scaling_factor
        pictures = torch.cat([vae.decode(part, return_dict=False)[0] for part in flat.split(_DECODE)])
        # A clamp would hide infinity, not NaN: both are left to be refused.
        pictures = torch.where(pictures.isfinite(), (pictures.float() / 2 + 0.5).clamp(0, 1), torch.nan)
        return pictures.reshape(clips, frames, *pictures.shape[1:])


def encode_prompts(pipeline: Any, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
    """Text embeddings as AnimateDiffPipeline makes them: padded to the tokenizer's length, truncated beyond it."""
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    # Offloaded layer by layer, weights are on no device, and take their inputs to where they compute.
    device = "cpu" if encoder.device.type == "meta" else encoder.device
    mask = tokens.attention_mask.to(device) if getattr(encoder.config, "use_attention_mask", False) else None
    return encoder(tokens.input_ids.to(device), attention_mask=mask)[0]


def compile_blocks(unet: torch.nn.Module) -> None:
    """Compile each transformer block, spatial and temporal, in place, as diffusers' `compile_repeated_blocks` does.

    `leanmotion.model.compiling` then compiles what is around them, and takes their place. They stay in what is stored
    under the addresses of code (`leanmotion.pipeline.code_address`), also where nothing is compiled.
    """
    import torch._dynamo

    # Widths, lengths and removals each take a version of the same code; beyond the limit it would run uncompiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    for module in unet.modules():
        if type(module).__name__ == "BasicTransformerBlock" and module._compiled_call_impl is None:
            module.compile()


def latent_shape(pipeline: Any, settings: Sampling) -> tuple[int, int, int, int]:
    """(channels, frames, height, width) of a clip's latents.

    Raises:
        LeanmotionError: The VAE cannot make that size.
    """
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    for side in ("height", "width"):
        if getattr(settings, side) % factor:
            raise LeanmotionError(f"sampling.{side} is {getattr(settings, side)}: choose a multiple of {factor}")
    return (
        pipeline.unet.config.in_channels, settings.frames, settings.height // factor, settings.width // factor,
    )  # fmt: skip


def make_scheduler(base: Any, name: str) -> Any:
    """The pipeline's own scheduler, or another one on the same betas (`ddim` as AnimateDiff samples: linear betas)."""
    import diffusers

    if name == "base":
        return type(base).from_config(base.config)
    if name == "ddim":
        return diffusers.DDIMScheduler.from_config(
            base.config, beta_schedule="linear", steps_offset=1, clip_sample=False
        )
    if name == "lcm":
        return diffusers.LCMScheduler.from_config(base.config, beta_schedule="linear")
    return diffusers.EulerDiscreteScheduler.from_config(
        base.config, timestep_spacing="trailing", beta_schedule="linear"
    )


def working_scheduler(base: Any, settings: Sampling) -> Any:
    """`make_scheduler`, after it was tried: all steps of two clips of one number.

    Raises:
        LeanmotionError: It stops on the way: some take no batch, fewer steps, or other packages.
    """
    made = make_scheduler(base, settings.scheduler)
    try:
        trial = type(made).from_config(made.config)
        trial.set_timesteps(settings.steps)
        sample = torch.zeros(2, 1, 1, 1, 1) * trial.init_noise_sigma
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        extra = {"generator": generators} if "generator" in _step_arguments(trial) else {}
        for timestep in trial.timesteps:
            prediction = torch.zeros_like(trial.scale_model_input(sample, timestep))
            sample = trial.step(prediction, timestep, sample, return_dict=False, **extra)[0]
    except Exception as error:  # each scheduler stops in its own way
        line = " ".join(str(error).split())[:150] or type(error).__name__
        raise LeanmotionError(
            f"sampling.scheduler {settings.scheduler}: a {type(made).__name__} cannot sample {settings.steps} steps "
            f"({line}): choose ddim, euler or lcm, or other sampling.steps"
        ) from error
    return made


class _OneRow(torch.nn.Module):
    """A time embedding that computes one row for all clips of a batch."""

    def __init__(self, embedding: torch.nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, sample: Float[Tensor, "clips width"], condition: Tensor | None = None) -> Tensor:
        row = self.embedding(sample[:1], None if condition is None else condition[:1])
        return row.expand(len(sample), -1)


@contextmanager
def _timestep_embedded_once(unet: Any) -> Iterator[None]:
    """Embed the timestep as for a clip alone: all clips of a batch are at the same one.

    A product with one row takes another kernel than one with many, and rounds differently: of all the UNet's layers the
    only ones in which a clip of the embedded default feels the size of its batch (LOG.md). Ten steps make 1e-3 of it.
    """
    whole = unet.time_embedding
    unet.time_embedding = _OneRow(whole)
    try:
        yield
    finally:
        unet.time_embedding = whole


@contextmanager
def one_thread_a_call() -> Iterator[None]:
    """Kernels called inside, from any thread, keep to their own core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _step_arguments(scheduler: Any) -> Sequence[str]:
    return list(inspect.signature(scheduler.step).parameters)


def _require_finite(values: Tensor, requests: Sequence[Request], what: str) -> None:
    finite = values.isfinite().flatten(1).all(dim=1)
    for request, good in zip(requests, finite[: len(requests)].tolist(), strict=True):
        if not good:
            raise LeanmotionError(
                f"{what} of prompt {request.prompt!r}, seed {request.seed} are not finite: "
                "check the weights, or set teacher.dtype to float32"
            )
