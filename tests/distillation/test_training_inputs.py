"""Trajectories as training inputs, and the sampler's steps that they are made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from micro_training import SETTINGS, Killed, MemoryClips, drawing, encode, losses, same, scheduler, stop_after, train
from models import micro_unet

from leanmotion.distillation.clip_source import ClipSource
from leanmotion.distillation.lanes import Lanes
from leanmotion.distillation.losses import LARGEST_V_WEIGHT
from leanmotion.distillation.objectives import SingleSteps
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.schedule import draw
from leanmotion.distillation.setup import Setup
from leanmotion.distillation.training_inputs import CaptionedLatents, Clips, Trajectories
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.processes import Ranks
from leanmotion.pipeline.tables import write_table

pytestmark = pytest.mark.numeric

SHAPE = (4, 2, 4, 4)
ON = replace(SETTINGS, task_weight=0.0, inputs="teacher", batch=4)


def noise(clips: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((clips, *SHAPE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def teacher() -> Any:
    return micro_unet(0)


def made(name: str) -> Any:
    import diffusers

    return getattr(diffusers, name)(beta_schedule="linear")


def stored(path: Path, latents: torch.Tensor, captions: list[str]) -> ClipSource:
    """The same clips as `clips.parquet` holds them."""
    channels, frames, height, width = latents.shape[1:]
    size = {"channels": channels, "frames": frames, "height": height, "width": width}
    rows = [
        {"clip": i, "caption": caption, "source": "test", **size, "latents": clip.numpy().tobytes()}
        for i, (clip, caption) in enumerate(zip(latents, captions, strict=True))
    ]
    write_table(path, "clips", rows)
    return ClipSource(path)


@pytest.mark.parametrize("count", [1, 5, 32])
def test_clips_in_memory_come_as_from_a_table(count: int, tmp_path: Path) -> None:
    """A table of one row group, which is up to 32 clips, has one window."""
    latents, captions = noise(count), [f"caption {i}" for i in range(count)]
    held, source = CaptionedLatents(latents, captions), stored(tmp_path / "clips.parquet", latents, captions)
    assert isinstance(held, Clips) and len(held) == len(source) == count
    assert held.order(3, 0, 100) == source.order(3, 0, 100)
    assert sorted(held.order(3, count, count)) == list(range(count))
    indices = held.order(0, 0, 4)
    assert torch.equal(held.batch(indices)[0], source.batch(indices)[0])
    assert held.batch(indices)[1] == source.batch(indices)[1]


def test_training_on_clips_in_memory_is_that_on_a_table(tmp_path: Path) -> None:
    latents, captions = noise(5), [f"caption {i}" for i in range(5)]
    source = stored(tmp_path / "clips.parquet", latents, captions)
    held, held_rows = train(tmp_path / "held", clips=(latents, captions))
    read, read_rows = train(tmp_path / "read", clips=source)
    assert held_rows == read_rows and same(held, read)


def test_clips_in_memory_are_told_apart() -> None:
    """As a checkpoint's name needs it: by values, shape and captions, not by where they lie in memory."""
    latents = noise(2)
    digests = {
        CaptionedLatents(latents, ["a", "b"]).digest,
        CaptionedLatents(latents, ["b", "a"]).digest,
        CaptionedLatents(latents.flip(0), ["a", "b"]).digest,
        CaptionedLatents(latents.reshape(2, 4, 4, 2, 4), ["a", "b"]).digest,
    }
    assert len(digests) == 4
    assert CaptionedLatents(latents.clone(), ["a", "b"]).digest in digests


def test_clips_in_memory_that_cannot_be_trained_on(tmp_path: Path) -> None:
    for latents, captions, said in (
        (noise(2), ["a"], "2 clips and 1 captions"),
        (noise(2)[:0], [], "0 clips and 0 captions"),
        (noise(2) / 0, ["a", "b"], "not finite"),
    ):
        with pytest.raises(LeanmotionError, match=said):
            train(tmp_path, clips=(latents, captions))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_drawing_is_the_samplers_loop(name: str, guidance: float, teacher: Any) -> None:
    """Step by step the latents are those of the loop that diffusers' own pipelines write."""
    this = Drawing(made(name), 4, guidance, "no")
    start, captions = noise(2), ["a", "bc"]
    theirs = made(name)
    theirs.set_timesteps(4)
    latents = start * theirs.init_noise_sigma
    states = encode(["no", "no", *captions] if guidance > 1 else captions).repeat_interleave(2, dim=0)
    with torch.no_grad():
        for t in theirs.timesteps:
            shown = theirs.scale_model_input(torch.cat([latents] * 2) if guidance > 1 else latents, t)
            prediction = teacher(shown, t, encoder_hidden_states=states, return_dict=False)[0]
            if guidance > 1:
                a, b = prediction.chunk(2)
                prediction = a + guidance * (b - a)
            latents = theirs.step(prediction, t, latents, return_dict=False)[0]
    found = this.drawn(teacher, start, this.states(encode, captions, 2, torch.device("cpu")), ["0", "1"])
    assert torch.equal(found, latents)
    # A scheduler that was asked for another step in between stands where it is told.
    this.shown(start, 3)
    again = this.drawn(teacher, start, this.states(encode, captions, 2, torch.device("cpu")), ["0", "1"])
    assert torch.equal(again, latents)


def test_noise_of_a_step_belongs_to_the_clip() -> None:
    lcm = Drawing(made("LCMScheduler"), 4, 1.0)
    latents, prediction = noise(2), noise(2, 1)
    both = lcm.stepped(prediction, latents, 0, ["a", "b"])
    assert torch.equal(both[1:], lcm.stepped(prediction[1:], latents[1:], 0, ["b"]))
    assert not torch.equal(both[1:], lcm.stepped(prediction[1:], latents[1:], 0, ["a"]))


def test_schedulers_that_remember_steps_are_refused() -> None:
    with pytest.raises(LeanmotionError, match="PNDMScheduler: choose ddim, euler or lcm"):
        Drawing(made("PNDMScheduler"), 4, 1.0)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_teachers_trajectory_passes_through_its_clips(guidance: float, teacher: Any) -> None:
    """Followed from batch to batch, a place's latents are those of drawing that caption and noise at once."""
    this, clips = drawing(steps=3, guidance=guidance), MemoryClips()
    inputs = Trajectories(
        clips,
        encode,
        ON,
        this,
        "epsilon",
        teacher,
        torch.device("cpu"),
        range(4),
        lambda: torch.autocast("cpu", enabled=False),
    )
    student = micro_unet(1)
    seen = []
    with torch.no_grad():
        for step in range(5):
            batch = inputs.batch(step, range(4))
            assert batch.target is None
            assert batch.timesteps[:4].tolist() == [int(this.timestep((step + at) % 3)) for at in (0, 0, 1, 2)]
            assert len(batch.noisy) == (8 if guidance > 1 else 4) == len(batch.captions) // 2
            found = losses(student, teacher, batch, ON.weights)
            assert found.raw["task"] is None
            inputs.advance(step, range(4), found)
            seen.append(inputs.state().clone())  # pyright: ignore[reportOptionalMemberAccess]
        # Place 1 draws its first clip in steps 0 to 2; place 2, a step ahead, its second in steps 2 to 4.
        for place, step, position in ((1, 2, 1), (2, 4, 4 + 2)):
            start = draw(ON.seed, position, SHAPE, 1)[2][None]
            caption = clips.batch(clips.order(ON.seed, position, 1))[1]
            states = this.states(encode, caption, 2, torch.device("cpu"))
            whole = this.drawn(teacher, start, states, ["x"])
            # The same sums over another batch size: float32 rounding through three steps of a random network.
            torch.testing.assert_close(seen[step][place : place + 1], whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_a_killed_run_on_trajectories_ends_bit_for_bit_alike(whose: Any, tmp_path: Path) -> None:
    settings = replace(ON, inputs=whose, validation=3)
    told: list[tuple[float, float]] = []
    whole, rows = train(tmp_path / "whole", settings, validated=lambda *found: told.append(found))
    with pytest.raises(Killed):
        train(tmp_path / "cut", settings, progress=stop_after(4))
    student, again = train(tmp_path / "cut", settings, validated=lambda *found: told.append(found))
    assert same(student, whole) and again == rows and told[0] == told[1]
    assert all(row["task"] is None and row["output"] is not None for row in rows)


def test_micro_batches_follow_the_same_trajectories(tmp_path: Path) -> None:
    one = train(tmp_path / "one", replace(ON, steps=3))[1]
    four = train(tmp_path / "four", replace(ON, steps=3, accumulate=4))[1]
    for a, b in zip(one, four, strict=True):
        # As for noised clips, and the latents of the steps before.
        assert a["total"] == pytest.approx(b["total"], rel=1e-3)


def test_whose_trajectory_matters(tmp_path: Path) -> None:
    totals = {
        whose: [row["total"] for row in train(tmp_path / whose, replace(ON, inputs=whose, steps=3))[1]]
        for whose in ("teacher", "student")
    }
    # The first step shows places that have not moved yet the same noise; those ahead differ already.
    assert totals["teacher"] != totals["student"]


def test_what_trajectories_and_validation_need(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match="task_weight must be 0 where inputs is student"):
        replace(SETTINGS, inputs="student")
    with pytest.raises(ValueError, match="give the sampler"):
        train(tmp_path, ON, drawing=None)
    with pytest.raises(ValueError, match="give the sampler"):
        train(tmp_path, replace(SETTINGS, steps=1, validation=1), drawing=None)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler"])
def test_the_samplers_grid_holds_only_its_timesteps(name: str, tmp_path: Path) -> None:
    """All of them in time, each clip noised as the sampler would show it there."""
    sampler, settings = Drawing(made(name), 4, 1.0), replace(SETTINGS, timesteps="sampler", batch=8, compare="v")
    setup = setup_of(settings, sampler)
    inputs = SingleSteps(setup).inputs
    seen: set[float] = set()
    for step in range(8):
        batch = inputs.batch(step, range(8))
        seen |= set(batch.timesteps.tolist())
        clean, _ = setup.clips.batch(setup.clips.order(settings.seed, step * 8, 8))
        for slot in range(8):
            index, _, own = draw(settings.seed, step * 8 + slot, SHAPE, 4)
            assert batch.timesteps[slot] == sampler.timestep(index)
            # As the sampler shows z_0 + sigma noise, or sqrt(a) z_0 + sqrt(1 - a) noise.
            if (sigmas := getattr(sampler.scheduler, "sigmas", None)) is not None:
                shown = sampler.shown((clean[slot] + sigmas[index] * own)[None], index)[0]
            else:
                shown = made(name).add_noise(clean[slot], own, torch.tensor(int(sampler.timestep(index))))
            torch.testing.assert_close(batch.noisy[slot], shown, rtol=1e-5, atol=1e-5)
            assert batch.weights is not None
            weight = min(1 / float(sampler.alphas()[index]), LARGEST_V_WEIGHT)
            assert float(batch.weights[slot]) == pytest.approx(weight, rel=1e-5)
    assert seen == {sampler.timestep(index) for index in range(4)}


def test_any_timestep_is_as_it_was() -> None:
    """The setting's other value draws what was drawn before there was one."""
    batch = SingleSteps(setup_of(SETTINGS, None)).inputs.batch(0, range(2))
    assert batch.timesteps.tolist() == [draw(SETTINGS.seed, p, SHAPE, 1000)[0] for p in range(2)]
    assert batch.weights is None


def setup_of(settings: Any, sampler: Drawing | None) -> Setup:
    student = micro_unet(1)
    parameters = dict(student.named_parameters())
    return Setup(
        student, micro_unet(0), scheduler(), MemoryClips(), settings, encode, parameters, Ranks(), sampler, Lanes()
    )
