"""Influence on a tiny teacher: against whole calls by hand, against the sampler, in parts, killed and damaged."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from committed import ROOT
from tiny import BLOCKS, tiny_settings

from leanmotion.cost.macs import macs_after, unet_macs
from leanmotion.errors import LeanmotionError
from leanmotion.influence import parts
from leanmotion.influence.output_changes import output_changes
from leanmotion.influence.step_weights import final_gains
from leanmotion.influence.tables import (
    influence_draws,
    influence_of,
    influence_rows,
    interaction_of,
    interaction_rows,
    macs_spent,
)
from leanmotion.influence.trajectory import Trajectory
from leanmotion.model.removal import without_units
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler, make_scheduler
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord, fingerprint, load_pipeline
from leanmotion.model.units import list_units
from leanmotion.pipeline.tables import read_table

REQUESTS = [Request(text, "a cat", seed) for seed, text in enumerate(("a dog", "two dogs", "rain", "a car", "snow"))]


@pytest.fixture(scope="module")
def pipeline(teacher_folder: Any) -> Any:
    return load_pipeline(tiny_settings(teacher_folder(levels=2, layers=1)).teacher)


@pytest.mark.parametrize(("guidance", "scheduler"), [(1.0, "base"), (3.0, "ddim"), (1.0, "lcm"), (2.0, "euler")])
def test_the_trajectory_is_the_samplers(pipeline: Any, guidance: float, scheduler: Any) -> None:
    """But for the timestep, which the sampler embeds for one clip alone: 1e-6 of numbers of size 1 to 10, each step."""
    sampling = tiny_settings(sampling={"guidance": guidance, "scheduler": scheduler, "steps": 3}).sampling
    sampler = Sampler(pipeline, sampling)
    with torch.inference_mode():
        expected = sampler._denoise(REQUESTS)
        walk = Trajectory(pipeline, sampling, REQUESTS, "cpu")
        for step in range(len(walk.timesteps)):
            walk.advance(walk.prediction(pipeline.unet(**walk.inputs(step), return_dict=False)[0]), step)
    torch.testing.assert_close(walk.latents, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_changes_are_those_of_whole_calls(pipeline: Any, guidance: float) -> None:
    sampling = tiny_settings(sampling={"guidance": guidance, "steps": 4}).sampling
    Sampler(pipeline, sampling)
    rows = output_changes(pipeline, sampling, REQUESTS, [0, 2])
    found = {(row["step"], row["unit"], row["other"]): row["values"] for row in rows}
    units = list_units(pipeline.unet)
    pairs = sum(n * (n + 1) // 2 for n in (7, 7, 14))
    assert len(found) == len(rows) == 2 * pairs
    walk = Trajectory(pipeline, sampling, REQUESTS, "cpu")
    with torch.inference_mode():
        for step in range(3):
            inputs = walk.inputs(step)
            full = walk.prediction(pipeline.unet(**inputs, return_dict=False)[0])
            changes = {}
            for unit in units if step != 1 else []:
                with without_units(pipeline.unet, [unit.id]):
                    changes[unit.id] = walk.prediction(pipeline.unet(**inputs, return_dict=False)[0]) - full
            for one in changes:
                for other in changes:
                    if (step, one, other) in found:
                        expected = (changes[one] * changes[other]).flatten(1).double().mean(dim=1)
                        # Products in float32 here, in float64 there: 1e-7 of each.
                        assert found[step, one, other] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-9)
            walk.advance(full, step)


@pytest.fixture
def tables(pipeline: Any) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    sampling = tiny_settings(sampling={"steps": 3}).sampling
    Sampler(pipeline, sampling)
    changes, units = output_changes(pipeline, sampling, REQUESTS, [0, 2]), list_units(pipeline.unet)
    weights = {0: 2.0, 2: 0.5}
    rows = influence_rows(changes, units, weights, {0: 1.5, 2: 3.0}, resamples=50, interval=0.9, seed=0)
    return pd.DataFrame(rows), pd.DataFrame(interaction_rows(changes, units, weights)), changes


def test_tables_hold_what_was_measured(tables: Any) -> None:
    influence, _, changes = tables
    assert list(dict.fromkeys(influence["unit"]))[:4] == ["down_0_0", "down_0_0-block0", "down_0_0-block0-attn1",
                                                          "down_0_0-block0-attn2"]  # fmt: skip
    assert ((influence["change_low"] <= influence["change"]) & (influence["change"] <= influence["change_high"])).all()
    score = influence_of(influence)
    by_hand = {}
    for row in changes:
        if row["unit"] == row["other"]:
            weight = {0: 2.0, 2: 0.5}[row["step"]]
            by_hand[row["unit"]] = by_hand.get(row["unit"], 0.0) + weight * float(np.mean(row["values"]))
    assert score == pytest.approx(by_hand)
    draws = influence_draws(influence, 400, seed=1)
    assert draws.shape == (400, len(score))
    # The mean of 400 resampled means is within four of their standard errors.
    assert np.abs(draws.mean(0) - list(score.values())) == pytest.approx(0, abs=float(4 * draws.std() / 20))


def test_interactions_are_a_gram_matrix(tables: Any) -> None:
    influence, interaction, _ = tables
    score = influence_of(influence)
    for granularity, count in (("temporal_transformer", 7), ("transformer_block", 7), ("attention", 14)):
        found = interaction_of(interaction, granularity)
        assert len(found.units) == count
        assert np.diag(found.mean) == pytest.approx([score[unit] for unit in found.units])
        assert np.array_equal(found.mean, found.mean.T)
        # Of a Gram matrix no eigenvalue is below 0, but for rounding.
        assert np.linalg.eigvalsh(found.mean).min() > -1e-9 * np.trace(found.mean)
    blocks = interaction_of(interaction)
    assert blocks.units == BLOCKS
    pair = blocks.mean[1, 1] + blocks.mean[4, 4] + 2 * blocks.mean[1, 4]
    assert blocks.damage(["up_0_1", "down_1_0"]) == pytest.approx(pair)
    assert blocks.draws(["down_1_0"], 30, 0).mean() == pytest.approx(blocks.mean[1, 1], rel=0.5)


def test_the_cost_is_what_the_calls_compute(pipeline: Any) -> None:
    size = {"frames": 3, "height": 8, "width": 8, "tokens": 5}
    unet, units = pipeline.unet, list_units(pipeline.unet)
    macs, after = unet_macs(unet, **size), macs_after(unet, **size)  # pyright: ignore
    assert after["down_0_0"] < macs["total"] and after["up_1_1"] < after["up_1_0"] < after["mid_0"]
    assert after["up_1_1"] > macs["up_1_1"]
    spent = macs_spent(macs, after, units, calls=2, steps=2, prompts=3, sampled=10, clips=5)
    assert spent["macs_walk"] == 2 * 3 * (10 + 2) * macs["total"]
    assert spent["macs_temporal_transformer"] == 2 * 3 * 2 * sum(after[b] - macs[b] for b in BLOCKS)
    assert spent["drawn_temporal_transformer"] == 2 * 50 * (
        macs["total"] + sum(macs["total"] - macs[b] for b in BLOCKS)
    )
    assert spent["drawn_attention"] > spent["drawn_transformer_block"] and spent["macs_step"] == 2 * macs["total"]


@pytest.fixture
def measure(teacher_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`measure(requests, steps)`: changes by way of a scratch store of this test's own; `.unet` is the teacher's."""
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    settings = tiny_settings(teacher_folder(levels=2, layers=1), influence={"batch": 3})
    total, files = fingerprint(settings.teacher)
    samplers = Samplers(settings, TeacherRecord(total, files, "float32", {}, 0, 0, 0, 0))
    whole = samplers.teacher()

    def run(requests: list[Request], steps: list[int]) -> list[dict[str, Any]]:
        return parts.changes_of(whole, lambda: samplers.sampler(whole).pipeline, settings, requests, steps)

    run.unet = samplers.pipeline.unet  # pyright: ignore
    return run


def kept() -> list[Path]:
    return sorted(parts.scratch_folder().rglob("*.parquet"))


def test_parts_are_kept_and_threads_change_nothing(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(REQUESTS, [0, 1])
    assert len(whole[0]["values"]) == 5 and len(whole[0]["along"]) == 3
    files = kept()
    assert len(files) == 2, "of three prompts, and of two"
    stamp = files[1].stat().st_mtime_ns
    files[0].unlink()
    torch.set_num_threads(2)
    assert measure(REQUESTS, [0, 1]) == whole
    assert files[1].stat().st_mtime_ns == stamp, "a part that was there was measured again"
    monkeypatch.setattr(parts, "output_changes", None)
    assert measure(REQUESTS, [0, 1]) == whole


def test_a_damaged_part_is_named_and_measured_again(measure: Any) -> None:
    whole = measure(REQUESTS[:2], [0])
    (part,) = kept()
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(LeanmotionError, match="deleted: run again"):
        measure(REQUESTS[:2], [0])
    assert measure(REQUESTS[:2], [0]) == whole
    assert read_table(part, "changes").num_rows == len(whole)


def test_what_is_not_finite_is_named(measure: Any) -> None:
    with torch.no_grad():
        measure.unet.get_submodule("up_blocks.0.motion_modules.0.proj_out").weight.fill_(float("nan"))
    with pytest.raises(LeanmotionError, match=r"whole model at step 0.*a dog.*float32"):
        measure(REQUESTS[:2], [0])
    assert not kept()


def test_a_perturbed_trajectory_ends_as_derived_where_no_answer_follows(pipeline: Any) -> None:
    """benchmarks/step_gains.py: after the last step the model says no more, so that its gain is the sampler's own."""
    perturbed_gains = runpy.run_path(str(ROOT / "benchmarks/step_gains.py"))["perturbed_gains"]
    sampling = tiny_settings(sampling={"steps": 3}).sampling
    Sampler(pipeline, sampling)
    gains = perturbed_gains(pipeline, sampling, REQUESTS, BLOCKS[0])
    derived = final_gains(make_scheduler(pipeline.scheduler, sampling.scheduler), 3)
    # A difference of latents of size 1, in float32, beside one of 1e-3 and more.
    assert len(gains) == 3 and gains[-1] == pytest.approx(derived[-1], rel=1e-3)
    assert all(0 < gain < 10 for gain in gains)
