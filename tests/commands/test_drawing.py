"""`leanmotion generate` and what is loaded from a pruned folder draw as the evidence was drawn."""

import copy
import inspect
import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from models import skip_without_bfloat16_attention
from tiny import edit_params, tiny_params
from typer.testing import CliRunner

from leanmotion.commands.cli import app
from leanmotion.errors import LeanmotionError
from leanmotion.model.judged_sampling import judged_sampling, judged_scheduler
from leanmotion.model.pruned_adapter import load_pruned_pipeline, read_pruned_config, save_pruned
from leanmotion.model.removal import remove_units
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline.settings import load_settings
from leanmotion.report import gallery

pytestmark = pytest.mark.numeric

SCHEDULERS = ("base", "ddim", "euler", "lcm")
REQUEST = Request("a cat", "a dog", 7)


@pytest.fixture
def project(teacher_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings, on a base with the scheduler of Stable Diffusion 1.5, which no setting names."""
    folder = teacher_folder(levels=2, layers=1)
    base = tmp_path / "base"
    shutil.copytree(folder.base, base)
    pndm = diffusers.PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)  # fmt: skip  # noqa: E501
    pndm.save_pretrained(base / "scheduler")
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "PNDMScheduler"]}))
    params = tiny_params(SimpleNamespace(base=base, adapter=folder.adapter))
    params["sampling"] |= {"guidance": 3.0, "steps": 3, "chunk": 1}
    params["prompts"] |= {"negative": REQUEST.negative}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    # As stages and `generate` do: in bfloat16 the number of threads is one of rounding.
    torch.set_num_threads(params["sampling"]["threads"])
    return tmp_path


def student(*, judged: bool) -> np.ndarray:
    """Writes `pruned/`, with or without how it was judged; the frames that the evidence would be measured on."""
    settings = load_settings()
    pipeline = load_pipeline(settings.teacher)
    remove_units(pipeline.unet, ["mid_0", "up_0_1"])
    how = judged_sampling(settings.sampling, pipeline.scheduler, settings.prompts.negative)
    save_pruned(pipeline.unet, "pruned", judged=how if judged else None)
    return Sampler(pipeline, settings.sampling)([REQUEST])[0]


def generated(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[np.ndarray]:
    """What `leanmotion generate` writes, before the file's colours."""
    kept: list[np.ndarray] = []
    monkeypatch.setattr(gallery, "write_clips", lambda clips, out, fps: kept.extend(clips))
    command = [
        "generate",
        "--prompt",
        REQUEST.prompt,
        "--seed",
        str(REQUEST.seed),
        "--adapter",
        "pruned",
        "-o",
        "x.gif",
    ]
    done = CliRunner().invoke(app, [*command, *words])
    assert done.exit_code == 0, done.output
    return kept


def levels(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference, in grey levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_sampler_that_judged_draws(project: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    """To the bit in `generate`; within rounding to a grey level in the pipeline, whose loop is diffusers' own."""
    edit_params(project / "params.yaml", {"sampling__scheduler": scheduler})
    wanted = student(judged=True)
    # What the folder says counts, whatever params.yaml says by now.
    edit_params(project / "params.yaml", {"sampling__scheduler": "ddim", "sampling__steps": 9, "sampling__frames": 2})
    assert np.array_equal(generated(monkeypatch)[0], wanted)
    pipe = load_pruned_pipeline("pruned", base=str(project / "base"))
    drawn: Any = pipe(REQUEST.prompt, generator=torch.Generator().manual_seed(REQUEST.seed), output_type="np")
    assert levels((drawn.frames[0] * 255).round(), wanted) <= 1


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_a_folder_that_does_not_say_is_drawn_by_the_settings(
    project: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    edit_params(project / "params.yaml", {"sampling__scheduler": scheduler})
    wanted = student(judged=False)
    assert np.array_equal(generated(monkeypatch)[0], wanted)
    pipe = load_pruned_pipeline("pruned", base=str(project / "base"))
    assert type(pipe.scheduler) is diffusers.PNDMScheduler


def test_what_a_call_says_comes_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student(judged=True)
    pipe = load_pruned_pipeline("pruned", base=str(project / "base"))
    how = {"generator": torch.Generator().manual_seed(7), "output_type": "np"}
    assert np.shape(pipe("a cat", 2, guidance_scale=1.0, **how).frames[0]) == (2, 32, 32, 3)  # pyright: ignore
    assert np.shape(pipe(["a cat", "a dog"], num_inference_steps=1, **how).frames) == (2, 3, 32, 32, 3)  # pyright: ignore
    (clip,) = generated(monkeypatch, "--frames", "2", "--height", "40", "--steps", "1", "--guidance", "1")
    assert clip.shape == (2, 40, 32, 3)
    stock = load_pruned_pipeline("pruned", base=str(project / "base"), as_judged=False)
    assert type(stock.scheduler) is diffusers.PNDMScheduler
    assert np.shape(stock("a cat", num_inference_steps=1, **how).frames[0]) == (16, 32, 32, 3)  # pyright: ignore


def test_it_is_a_pipeline_like_any_other(project: Path) -> None:
    """Its class is named as diffusers names it; others are made from it; its signature is known."""
    student(judged=True)
    pipe = load_pruned_pipeline("pruned", base=str(project / "base"))
    assert isinstance(pipe, diffusers.AnimateDiffPipeline) and type(pipe).__name__ == "AnimateDiffPipeline"
    assert "num_frames" in inspect.signature(pipe.__call__).parameters
    other = diffusers.AnimateDiffVideoToVideoPipeline.from_pipe(pipe)
    assert other.unet is pipe.unet and other.scheduler is pipe.scheduler
    with pytest.raises(LeanmotionError, match="positions for 16 at most"):
        pipe("a cat", num_frames=17)
    remove_units(pipe.unet, ["down_0_0-block0"])
    with pytest.raises(LeanmotionError, match="portable"):
        pipe.enable_free_noise()


@pytest.mark.parametrize("low", [True, False])
def test_what_diffusers_saves_of_it_draws_the_same(project: Path, low: bool) -> None:
    """Not the weights that lay in memory where units were removed."""
    wanted = student(judged=True)
    pipe = load_pruned_pipeline("pruned", base=str(project / "base"))
    copy.deepcopy(pickle.loads(pickle.dumps(pipe.unet))).save_pretrained("saved/unet")
    pipe.save_pretrained("saved")
    again = diffusers.DiffusionPipeline.from_pretrained("saved", low_cpu_mem_usage=low)
    assert type(again) is diffusers.AnimateDiffPipeline
    found = Sampler(again, load_settings().sampling)([REQUEST])[0]
    # Removed units are computed there, as zeros, through other kernels.
    assert levels(found, wanted) <= 1


def test_dtype_and_teacher_follow_the_settings(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 diffusers would draw noise of its own, and so another clip."""
    skip_without_bfloat16_attention()
    edit_params(project / "params.yaml", {"teacher__dtype": "bfloat16", "sampling__scheduler": "euler"})
    wanted = student(judged=True)
    teacher = Sampler(load_pipeline(load_settings().teacher), load_settings().sampling)([REQUEST])[0]
    both = generated(monkeypatch, "--compare")
    assert np.array_equal(both[0], teacher) and np.array_equal(both[1], wanted)


def test_a_prompt_that_is_cut_is_said_to_be(project: Path) -> None:
    student(judged=True)
    for prompt, said in (("a dog runs", ""), ("a dog runs " * 40, "--prompt: 1 of 1 cut at the ")):
        done = CliRunner().invoke(app, ["generate", "--prompt", prompt, "--adapter", "pruned", "-o", "x.gif"])
        assert done.exit_code == 0 and Path("x.gif").is_file()
        lines = [line for line in done.stderr.splitlines() if line.startswith("--prompt")]
        assert lines == [] if not said else lines[0].startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frames", "40"], "--frames 40"),
        (["--width", "50"], "--width is 50"),
        (["--height", "35"], "--height is 35"),
        (["-o", "x.avi"], "--out x.avi"),
        (["--adapter", "nowhere"], "nowhere"),
        (["--base", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_drawn_gets_one_line(project: Path, words: list[str], said: str) -> None:
    student(judged=True)
    done = CliRunner().invoke(app, ["generate", "--prompt", "x", "--adapter", "pruned", "-o", "x.gif", *words])
    assert done.exit_code == 2 and not list(Path().glob("x.*"))
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_comes_back_whole(project: Path, scheduler: str) -> None:
    """Through the folder's JSON: same class, same steps, same noise levels."""
    edit_params(project / "params.yaml", {"sampling__scheduler": scheduler})
    student(judged=True)
    found = judged_scheduler(read_pruned_config("pruned")["sampling"])
    pipeline = load_pipeline(load_settings().teacher)
    wanted = Sampler(pipeline, load_settings().sampling).scheduler
    for one in (found, wanted):
        one.set_timesteps(4)
    assert type(found) is type(wanted) and torch.equal(found.timesteps, wanted.timesteps)
    assert torch.equal(found.alphas_cumprod, wanted.alphas_cumprod)
