"""Step weights against perturbed trajectories of models that are linear, and closed forms."""

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler, PNDMScheduler

from leanmotion.errors import LeanmotionError
from leanmotion.influence.output_changes import _along
from leanmotion.influence.step_weights import answer, final_gains, spread_over, step_weights, variances_of
from leanmotion.model.sampler import make_scheduler

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
KINDS: dict[str, Any] = {
    "ddim": lambda **how: DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1, **how),
    "euler": lambda **how: EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", **how),
    "lcm": lambda **how: LCMScheduler(**BETAS, clip_sample=False, **how),
    "pndm": lambda **how: PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, **how),
    "dpm": lambda **how: DPMSolverMultistepScheduler(**BETAS, **how),
}


def drawn(scheduler: Any, steps: int, deviations: torch.Tensor, changed: int = -1, by: float = 0.1) -> torch.Tensor:
    """Final latents of a model that is the ideal denoiser of normal latents, its output changed at one call.

    The same noise each time. `deviations`: of each number of the latents, [numbers].
    """
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    noise = torch.randn(4, len(deviations), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latents = noise * scheduler.init_noise_sigma
    consistent = type(scheduler).__name__ == "LCMScheduler"
    extra = {"generator": torch.Generator().manual_seed(1)} if consistent else {}
    known = scheduler.alphas_cumprod.double()
    for k, timestep in enumerate(scheduler.timesteps):
        at = float(timestep)
        signal = float(known[int(at)] + (at % 1) * (known[min(int(at) + 1, 999)] - known[int(at)]))
        kind = scheduler.config.prediction_type
        slopes = [answer(kind, signal, float(d) ** 2, consistent=consistent) for d in deviations]
        output = torch.tensor(slopes, dtype=torch.float64) * scheduler.scale_model_input(latents, timestep)
        if k == changed:
            output = output + by
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
    return latents


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_gains_are_what_a_perturbed_trajectory_shows(kind: str, prediction: str) -> None:
    """Of latents of variance 1 exactly: the model is linear, so a change of any size moves the end in proportion."""
    if (kind, prediction) in {("pndm", "sample"), ("lcm", "sample")}:
        pytest.skip("diffusers' scheduler has no such prediction")
    scheduler, steps = KINDS[kind](prediction_type=prediction), 6
    same = torch.ones(8)
    end = drawn(scheduler, steps, same)
    for k, gain in enumerate(final_gains(scheduler, steps)):
        moved = (drawn(scheduler, steps, same, k) - end).abs().mean() / 0.1
        # Some schedulers step in float32: 1e-7 of latents of size 1, beside changes of 1e-3 that gains of 1e-2 shrink.
        assert float(moved) == pytest.approx(gain, rel=1e-3), k


@pytest.mark.parametrize("kind", ["ddim", "euler", "lcm"])
def test_gains_hold_within_a_fifth_where_variances_are_only_about_1(kind: str) -> None:
    """Numbers of standard deviation 0.8 to 1.2, as a VAE's channels have. LCM's first steps are drowned by the noise
    that follows: what is left of a change there is a hundredth of the largest, and known to that.
    """
    deviations = torch.linspace(0.8, 1.2, 9)
    scheduler, steps = KINDS[kind](), 10
    end = drawn(scheduler, steps, deviations)
    gains = final_gains(scheduler, steps)
    for k, gain in enumerate(gains):
        moved = (drawn(scheduler, steps, deviations, k) - end).square().mean().sqrt() / 0.1
        assert float(moved) == pytest.approx(gain, rel=0.2, abs=0.02 * max(gains)), k


def test_ddim_of_velocities_has_a_closed_form() -> None:
    """At variance 1 the ideal velocity is 0: `z' = cos(d) z - sin(d) v`, the angles of signal and noise apart by d."""
    scheduler, steps = KINDS["ddim"](prediction_type="v_prediction"), 5
    scheduler.set_timesteps(steps)
    signals = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps]
    angles = [math.acos(math.sqrt(signal)) for signal in signals]
    # `set_alpha_to_one`: the last step ends without noise.
    turns = [a - b for a, b in zip(angles, [*angles[1:], 0.0], strict=True)]
    for k, gain in enumerate(final_gains(scheduler, steps)):
        # float32 of alphas: 1e-7 of 1 - alpha, which is 1e-3 at the last step.
        assert gain == pytest.approx(math.sin(turns[k]) * math.prod(math.cos(t) for t in turns[k + 1 :]), rel=1e-3)


def test_the_answer_is_the_ideal_denoisers() -> None:
    """Regression of x, e and v on z over drawn numbers."""
    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, 400_000, generator=generator, dtype=torch.float64)
    for signal, variance in ((0.9, 1.0), (0.3, 0.5), (0.05, 2.0)):
        clean, alpha, sigma = x * math.sqrt(variance), math.sqrt(signal), math.sqrt(1 - signal)
        z = alpha * clean + sigma * e
        for kind, target in (("epsilon", e), ("sample", clean), ("v_prediction", alpha * e - sigma * clean)):
            # Four standard errors of a slope over 400,000 numbers of this size.
            assert answer(kind, signal, variance) == pytest.approx(float((z @ target) / (z @ z)), abs=0.012)
    with pytest.raises(LeanmotionError, match="flow"):
        answer("flow", 0.5)


def test_the_samplers_schedulers_are_asked_as_they_are() -> None:
    base = KINDS["ddim"](prediction_type="v_prediction")
    for name in ("base", "ddim", "euler", "lcm"):
        gains = final_gains(make_scheduler(base, name), 4)
        assert len(gains) == 4 and all(gain > 0 for gain in gains)


@pytest.mark.parametrize(("steps", "count"), [(10, 3), (10, 10), (4, 1), (7, 5)])
def test_each_step_counts_once(steps: int, count: int) -> None:
    scheduler = KINDS["ddim"]()
    chosen = spread_over(steps, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == count and max(chosen) < steps
    weights = step_weights(scheduler, steps, dict.fromkeys(chosen, 2.0))
    assert list(weights) == chosen
    assert sum(weights.values()) == pytest.approx(sum(g**2 for g in final_gains(scheduler, steps, 2.0)))


def test_the_variance_along_changes_is_that_of_latents() -> None:
    """Latents of deviation 3 along one axis and 1 along the others: changes along either, of two sizes."""
    random = torch.Generator().manual_seed(0)
    final = torch.randn(400, 6, generator=random, dtype=torch.float64) * torch.tensor([3.0, 1, 1, 1, 1, 1])
    axes = torch.zeros(2, 400, 6, dtype=torch.float64)
    axes[0, :, 0], axes[1, :, 3] = 5.0, 0.1
    rows = []
    for i, along in enumerate(_along(axes, final)):
        values = axes[i].square().mean(dim=1).tolist()
        rows.append({"unit": f"{i}", "other": f"{i}", "step": i, "values": values, "along": along.tolist()})
    # Four standard errors of a variance over 400 numbers.
    assert variances_of(rows) == pytest.approx({0: 9.0, 1: 1.0}, rel=4 * (2 / 400) ** 0.5)
    both = [{**row, "step": 0} for row in rows]
    assert variances_of(both)[0] == pytest.approx(variances_of(rows)[0], rel=0.01), "the larger change counts"
    alone = [{**rows[0], "along": []}, {**rows[1], "other": "0", "along": []}]
    assert variances_of(alone) == {}
