"""The sampler against the stock AnimateDiffPipeline, and what its bytes may depend on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leanmotion.errors import LeanmotionError
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler, encode_prompts, latent_shape, make_scheduler
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline.settings import Sampling
from leanmotion.pipeline.settings import Teacher as TeacherSettings

pytestmark = pytest.mark.numeric

FRAMES, SIZE = 4, 32


def sampling(**changes) -> Sampling:
    values = {"frames": FRAMES, "height": SIZE, "width": SIZE, "steps": 3, "guidance": 1.0, "chunk": 3, "threads": 1}
    return Sampling.model_validate(values | changes)


def requests(*prompts: str, seed: int = 0) -> list[Request]:
    return [Request(prompt, "blurry", seed + i) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def pipeline(teacher_folder):
    folder = teacher_folder(levels=2, layers=1)
    settings = TeacherSettings(base=str(folder.base), adapter=str(folder.adapter))
    return load_pipeline(settings)


def stock_frames(pipeline, request: Request, settings: Sampling) -> np.ndarray:
    """The same clip by AnimateDiffPipeline's own call, from the same noise."""
    noise = torch.randn(latent_shape(pipeline, settings), generator=torch.Generator().manual_seed(request.seed))
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        request.prompt,
        negative_prompt=request.negative,
        num_frames=settings.frames,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        latents=noise[None],
        output_type="np",
    ).frames[0]
    return (frames * 255).round().astype(np.uint8)


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Within one grey level, for what a processor may round in another way (another batch, another place in it).

    Kernels cut a batch into tiles, and a row may fall into another one: floats of order 1 move by about 1e-6, grey
    levels (1 / 255 apart) by 3e-4 of one, so that fewer than one value in a thousand crosses a rounding limit.
    """
    difference = np.abs(ours.astype(int) - theirs)
    return ours.shape == theirs.shape and difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_equals_the_stock_pipeline(pipeline, guidance: float) -> None:
    """Within rounding: a batch of clips takes other kernels than a single one."""
    settings = sampling(guidance=guidance)
    asked = requests("a red dog", "two cats, at night", seed=7)
    ours = Sampler(pipeline, settings)(asked)
    stock = np.stack([stock_frames(pipeline, request, settings) for request in asked])
    assert ours.shape == (2, FRAMES, SIZE, SIZE, 3) and ours.dtype == np.uint8
    assert alike(ours, stock)
    assert ours.std() > 1, "an empty picture equals everything"


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_shares_side_by_side_are_smaller_chunks(pipeline, two_threads, guidance: float) -> None:
    """Each core draws a share of a chunk: byte for byte what one core draws in chunks of that size."""
    asked = requests("a dog", "a red cat", "two dogs, at night", "a cat!")
    together = Sampler(pipeline, sampling(guidance=guidance, chunk=4))(asked)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert np.array_equal(Sampler(pipeline, sampling(guidance=guidance, chunk=2))(asked), together)


def test_the_timestep_is_embedded_as_for_a_clip_alone(pipeline) -> None:
    """One row, whatever the batch, as the kernels of products with many rows round in another way."""
    embedding = pipeline.unet.time_embedding
    seen: list[int] = []
    handle = embedding.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        Sampler(pipeline, sampling(guidance=7.5, steps=2))(requests("a dog", "a cat"))
    finally:
        handle.remove()
    assert seen == [1, 1] and pipeline.unet.time_embedding is embedding


def test_watched_networks_are_called_one_at_a_time(pipeline, two_threads) -> None:
    sampler = Sampler(pipeline, sampling(chunk=4, steps=2))
    seen: list[int] = []
    handle = pipeline.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        sampler(requests("a dog"))
    finally:
        handle.remove()
    assert seen == [4, 4]


def test_guidance_reads_the_negative_prompt_and_one_does_not(pipeline) -> None:
    one, other = Request("a dog", "blurry", 3), Request("a dog", "a cat!", 3)
    guided = Sampler(pipeline, sampling(guidance=7.5))
    assert not np.array_equal(guided([one]), guided([other]))
    plain = Sampler(pipeline, sampling())
    assert np.array_equal(plain([one]), plain([other]))


@pytest.mark.parametrize("scheduler", ["base", "euler", "lcm"])
def test_a_clip_depends_on_neither_neighbours_nor_padding(pipeline, scheduler: str) -> None:
    """Bytes at the same place of a batch: it has the same size whoever is in it. At another place: within rounding.

    `lcm` draws noise in every step: each clip its own.
    """
    sampler = Sampler(pipeline, sampling(scheduler=scheduler))
    asked = requests("a dog", "a cat", "a bird", "a fish", seed=11)
    together = sampler(asked)
    assert np.array_equal(together[3:], sampler(asked[3:])), "a lone clip, padded, at the same place"
    alone = np.concatenate([sampler([request]) for request in asked])
    assert np.array_equal(alone[[0, 3]], together[[0, 3]])
    assert alike(alone, together) and alike(sampler(asked[::-1])[::-1], together)
    assert not alike(together[:2], together[1:3]), "clips that are all alike show nothing"


def test_the_same_request_twice_is_the_same_clip(pipeline) -> None:
    clips = Sampler(pipeline, sampling())([*requests("a dog"), *requests("a dog"), *requests("a dog", seed=1)])
    assert alike(clips[0], clips[1]) and not alike(clips[0], clips[2])


def test_global_random_state_is_neither_read_nor_moved(pipeline) -> None:
    sampler = Sampler(pipeline, sampling(scheduler="lcm"))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = sampler(requests("a dog"))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert np.array_equal(first, sampler(requests("a dog")))


def test_eager_attention_agrees(pipeline, teacher_folder) -> None:
    """Other arithmetic, same clip."""
    folder = teacher_folder(levels=2, layers=1)
    settings = TeacherSettings(base=str(folder.base), adapter=str(folder.adapter))
    eager = Sampler(load_pipeline(settings), sampling(attention="eager"))(requests("a dog"))
    assert alike(eager, Sampler(pipeline, sampling())(requests("a dog")))


def test_latents_that_are_not_finite_name_prompt_and_seed(pipeline) -> None:
    class Poisoned:
        """The UNet, but the second clip of a batch turns to NaN."""

        def __call__(self, sample, timestep, **kwargs):
            out = pipeline.unet(sample, timestep, **kwargs)[0].clone()
            out[1] = torch.nan
            return (out,)

    sampler = Sampler(pipeline, sampling())
    sampler.pipeline = SimpleNamespace(**{**pipeline.components, "unet": Poisoned()})  # pyright: ignore
    sampler.pipeline.unet.config = pipeline.unet.config
    sampler.pipeline.unet.time_embedding = pipeline.unet.time_embedding
    with pytest.raises(LeanmotionError, match=r"latents of prompt 'a cat', seed 8 are not finite.*teacher\.dtype"):
        sampler(requests("a dog", "a cat", seed=7))
    # Padding is not anyone's clip.
    assert len(sampler(requests("a dog"))) == 1


def test_pictures_that_are_not_finite_name_prompt_and_seed(pipeline, monkeypatch) -> None:
    """A half-precision VAE overflows where the latents are fine; NaN as uint8 would be plain black."""
    real = pipeline.vae.decode

    def decode(latents, return_dict=True):
        out = real(latents, return_dict=False)[0].clone()
        out[FRAMES + 1] = torch.inf
        return (out,)

    sampler = Sampler(pipeline, sampling())
    monkeypatch.setattr(pipeline.vae, "decode", decode)
    with pytest.raises(LeanmotionError, match=r"pictures of prompt 'a cat', seed 8 are not finite"):
        sampler(requests("a dog", "a cat", seed=7))


def test_sizes_that_the_vae_cannot_make(pipeline) -> None:
    assert latent_shape(pipeline, sampling(height=64)) == (4, FRAMES, 16, 8)
    with pytest.raises(LeanmotionError, match=r"sampling\.width is 30: choose a multiple of 4"):
        latent_shape(pipeline, sampling().model_copy(update={"width": 30}))


def test_schedulers_stand_on_the_same_betas(pipeline) -> None:
    base = pipeline.scheduler
    names = {"base": "DDIMScheduler", "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "lcm": "LCMScheduler"}
    for name, kind in names.items():
        made = make_scheduler(base, name)
        assert type(made).__name__ == kind and made is not base
        assert torch.allclose(made.betas, base.betas), name
    assert make_scheduler(base, "base").config == base.config


def test_long_prompts_are_truncated_as_in_the_pipeline(pipeline) -> None:
    """Rows of one batch, against each prompt alone: other kernels, hence 1e-5 of values of order 1."""
    prompts = ["a dog", "x" * 10_000, "", 'it\'s "quoted" & émoji 🎬']
    ours = encode_prompts(pipeline, prompts)
    for row, prompt in zip(ours, prompts, strict=True):
        stock, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
        assert torch.allclose(row, stock[0], atol=1e-5)
