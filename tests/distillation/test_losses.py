"""Losses against closed forms, and what trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from micro_training import losses
from models import micro_unet

from leanmotion.distillation.distillation_settings import DistillationSettings, LossWeights
from leanmotion.distillation.losses import (
    LARGEST_V_WEIGHT,
    Batch,
    block_outputs,
    feature_blocks,
    feature_loss,
    noised,
    output_loss,
    task_loss,
    v_weights,
)
from leanmotion.distillation.trainable import trained_parameters
from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import remove_units

pytestmark = pytest.mark.numeric


def micro_batch(clips: int = 2, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    shape = (clips, 4, 2, 4, 4)
    noisy, target = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    states = torch.randn((clips * 2, 3, 8), generator=g)
    return Batch(noisy, target, torch.randint(1000, (clips,), generator=g), states)


@pytest.fixture(scope="module")
def teacher() -> Any:
    return micro_unet(0)


@pytest.fixture(scope="module")
def student() -> Any:
    return micro_unet(1)


def test_mean_squared_errors_in_closed_form() -> None:
    zeros = torch.zeros(2, 4, 2, 3, 3)
    assert task_loss(zeros + 3, zeros) == 9
    assert output_loss(zeros - 0.5, zeros) == 0.25
    # Half precision goes through float32: the square of 300 overflows float16.
    assert output_loss((zeros + 300).half(), zeros.half()) == 90000


def test_feature_loss_is_relative_to_the_teacher_layer_by_layer() -> None:
    loud, quiet = torch.full((4, 2, 3, 3), 1000.0), torch.full((4, 5, 1, 1), 0.001)
    # A silent student counts 1 at every layer, whatever its norm; a student at twice the teacher as well.
    assert feature_loss([loud * 0, quiet * 0], [loud, quiet], clips=2) == pytest.approx(1)
    assert feature_loss([loud * 2, quiet], [loud, quiet], clips=2) == pytest.approx(0.5)
    assert feature_loss([loud, quiet], [loud, quiet], clips=2) == 0
    # Frames of one clip share a norm: errors (1 + 0) / (1 + 3) in clip 0, none in clip 1; mean of 1/4 and 0.
    t = torch.tensor([1.0, 3**0.5, 1.0, 1.0]).view(4, 1, 1, 1)
    s = torch.tensor([2.0, 3**0.5, 1.0, 1.0]).view(4, 1, 1, 1)
    assert feature_loss([s], [t], clips=2) == pytest.approx(1 / 8)
    assert torch.isfinite(feature_loss([s], [t * 0], clips=2))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_noising_matches_diffusers(prediction_type: str) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: Any = DDIMScheduler(beta_schedule="linear")
    latents, noise = torch.randn((2, 3, 4, 2, 5, 5), generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    noisy, target = noised(latents, noise, scheduler.alphas_cumprod[timesteps], prediction_type)
    # Same formula in the same precision; the order of operations may differ by an ulp of values below 8 (4.8e-7).
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, timesteps), rtol=0, atol=1e-6)
    reference = {
        "epsilon": noise,
        "sample": latents,
        "v_prediction": scheduler.get_velocity(latents, noise, timesteps),
    }
    torch.testing.assert_close(target, reference[prediction_type], rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_differences_count_as_those_of_v(prediction_type: str) -> None:
    """Of two predictions of any kind on the same latents: turned into v, their squared difference is the weighted."""
    g = torch.Generator().manual_seed(0)
    noisy, a, b = torch.randn((3, 4, 4, 2, 5, 5), generator=g).double()
    alphas = torch.tensor([0.99, 0.5, 0.1, 0.0047]).double()
    alpha, sigma = (x.sqrt().view(-1, 1, 1, 1, 1) for x in (alphas, 1 - alphas))

    def v(prediction: torch.Tensor) -> torch.Tensor:
        if prediction_type == "epsilon":
            return alpha * prediction - sigma * (noisy - sigma * prediction) / alpha
        if prediction_type == "sample":
            return alpha * (noisy - alpha * prediction) / sigma - sigma * prediction
        return prediction

    weights = v_weights(alphas, prediction_type)
    wanted = (v(a) - v(b)).square().flatten(1).mean(1)
    for i in range(4):
        # The loss is taken in float32: an ulp is 6e-8 of a square, and of differences that cancel ten times that.
        assert float(output_loss(a[i : i + 1], b[i : i + 1], weights[i : i + 1])) == pytest.approx(
            float(wanted[i]), rel=1e-5
        )
    assert float(output_loss(a, b, weights)) == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert float(output_loss(a, b)) == pytest.approx(float((a - b).square().mean()), rel=1e-5)


def test_weights_of_v_are_bounded() -> None:
    edges = torch.tensor([0.0, 1.0])
    assert v_weights(edges, "epsilon").tolist() == [LARGEST_V_WEIGHT, 1.0]
    assert v_weights(edges, "sample").tolist() == [1.0, LARGEST_V_WEIGHT]
    with pytest.raises(LeanmotionError, match="flow"):
        v_weights(edges, "flow")
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    for schedule in ("linear", "scaled_linear"):
        ends = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule).alphas_cumprod[[0, -1]]
        # No timestep of Stable Diffusion's or AnimateDiff's schedules is bounded where networks predict noise.
        assert float(v_weights(ends, "epsilon").max()) < LARGEST_V_WEIGHT


class NoiseOf(torch.nn.Module):
    """A network that predicts v, as one that predicts noise: alpha v + sigma z_t."""

    def __init__(self, network: Any, alphas: torch.Tensor) -> None:
        super().__init__()
        self.network, self.alphas = network, alphas

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **how: Any) -> tuple[torch.Tensor]:
        alpha = self.alphas[timestep].view(-1, 1, 1, 1, 1)
        return (alpha.sqrt() * self.network(sample, timestep, **how)[0] + (1 - alpha).sqrt() * sample,)


def test_a_view_that_predicts_noise_has_the_loss_of_its_v(student: Any, teacher: Any) -> None:
    """And the same gradient: `compare: v` does not care what networks predict."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    alphas: torch.Tensor = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear").alphas_cumprod
    batch = micro_batch(4)._replace(timesteps=torch.tensor([1, 300, 700, 999]), target=None)
    weights, found = v_weights(alphas[batch.timesteps], "epsilon"), []
    name = "mid_block.motion_modules.0.proj_in.weight"
    for a, b, how in ((student, teacher, None), (NoiseOf(student, alphas), NoiseOf(teacher, alphas), weights)):
        student.zero_grad()
        total = losses(a, b, batch._replace(weights=how), LossWeights(0, 1, 0)).total
        total.backward()
        found.append((float(total.detach()), student.get_parameter(name).grad.clone()))
    student.zero_grad()
    # Where alpha-bar is 0.0016, v is a 25th of what cancels in float32: 25^2 of 6e-8, over terms of all sizes.
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-4 * float(found[0][1].abs().max()))


def test_noising_refuses_an_unknown_prediction_type() -> None:
    one = torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(LeanmotionError, match="flow"):
        noised(one, one, torch.ones(1), "flow")


def test_a_copy_of_the_teacher_has_no_distillation_loss(teacher: Any) -> None:
    result = losses(micro_unet(0), teacher, micro_batch(), LossWeights(1, 1, 1))
    assert result.raw["output"] == 0
    assert result.raw["feature"] == 0
    assert result.raw["task"] is not None and result.raw["task"] > 0


def test_weights_scale_terms_and_total_is_their_sum(student: Any, teacher: Any) -> None:
    batch = micro_batch()
    result = losses(student, teacher, batch, LossWeights(0.5, 2, 3))
    raw = result.raw
    assert raw["task"] is not None and raw["output"] is not None and raw["feature"] is not None
    torch.testing.assert_close(result.total, 0.5 * raw["task"] + 2 * raw["output"] + 3 * raw["feature"])
    assert set(result.weighted) == {"task", "output", "feature"}
    # Left out of the gradient, still reported.
    plain = losses(student, teacher, batch, LossWeights(0, 1, 0))
    assert set(plain.weighted) == {"output"} and plain.raw["task"] is not None and plain.raw["feature"] is None


def test_the_teacher_runs_once_without_gradient_and_only_if_asked(student: Any) -> None:
    teacher = micro_unet(2)
    calls: list[bool] = []
    teacher.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    losses(student, teacher, micro_batch(), LossWeights(1, 1, 1)).total.backward()
    assert calls == [False]
    assert all(p.grad is None for p in teacher.parameters())
    losses(student, teacher, micro_batch(), LossWeights(1, 0, 0))
    assert len(calls) == 1
    student.zero_grad(set_to_none=True)


def test_features_are_the_outputs_of_every_block(teacher: Any) -> None:
    assert list(feature_blocks(teacher)) == ["down_0", "down_1", "mid", "up_0", "up_1"]
    batch = micro_batch()
    with block_outputs(teacher) as outputs, torch.no_grad():
        teacher(batch.noisy, batch.timesteps, encoder_hidden_states=batch.captions)
    assert [tuple(o.shape) for o in outputs()] == [
        (4, 8, 2, 2),
        (4, 16, 2, 2),
        (4, 16, 2, 2),
        (4, 16, 4, 4),
        (4, 8, 4, 4),
    ]
    assert not any(block._forward_hooks for block in feature_blocks(teacher).values())


def test_losses_do_not_depend_on_micro_batches(student: Any, teacher: Any) -> None:
    whole = micro_batch(clips=2)
    weights = LossWeights(1, 1, 1)
    assert whole.target is not None
    parts = [
        losses(
            student,
            teacher,
            Batch(whole.noisy[i : i + 1], whole.target[i : i + 1], whole.timesteps[i : i + 1], states),
            weights,
        ).total
        for i, states in enumerate(whole.captions.split(2))
    ]
    # Equal in exact arithmetic; a network of this depth moves a float32 loss by a few times 1e-7 of its value.
    torch.testing.assert_close(
        torch.stack(parts).mean(), losses(student, teacher, whole, weights).total, rtol=1e-5, atol=0
    )


def test_what_trains(student: Any) -> None:
    motion = trained_parameters(student, "motion")
    assert motion and all("motion_modules" in name for name in motion)
    assert len(motion) == sum(".motion_modules." in name for name, _ in student.named_parameters())


def test_named_parts_train(student: Any) -> None:
    parts = ("motion.attention", "motion.feed_forward", "motion.norm", "motion.projection")
    names = [set(trained_parameters(student, (part,))) for part in parts]
    # Together all of them, in the model's order. Norms lie both in and around transformer blocks.
    assert set().union(*names) == set(trained_parameters(student, "motion"))
    assert list(trained_parameters(student, parts)) == list(trained_parameters(student, "motion"))
    assert all(".attn" in name for name in names[0]) and not names[0] & names[1] and not names[0] & names[3]
    (block, attention) = trained_parameters(student, ("up_1_0",)), trained_parameters(student, ("mid_0-block0-attn1",))
    assert {name.split(".transformer_blocks")[0] for name in block if ".transf" in name} == {
        "up_blocks.1.motion_modules.0"
    }
    assert all(name.startswith("mid_block.motion_modules.0.transformer_blocks.0.attn1.") for name in attention)


def test_a_part_that_there_is_not_is_refused(student: Any) -> None:
    with pytest.raises(LeanmotionError, match=r"'up_1_9' is no part.*did you mean 'up_1"):
        trained_parameters(student, ("mid_0", "up_1_9"))
    with pytest.raises(LeanmotionError, match=r"motion\.attention"):
        trained_parameters(student, ("conv_out.bias",))
    with pytest.raises(LeanmotionError, match="say 'motion'"):
        trained_parameters(student, "all")


def test_a_part_may_name_what_was_removed(teacher: Any) -> None:
    student = remove_units(micro_unet(0), ["mid_0"])
    assert trained_parameters(student, ("mid_0",), teacher) == {}


def test_half_precision_weights_are_refused() -> None:
    with pytest.raises(LeanmotionError, match="float32"):
        trained_parameters(micro_unet(0).half(), "motion")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": -1}, "steps"),
        ({"accumulate": 3}, "accumulate"),
        ({"accumulate": 0}, "accumulate"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"ema": 1.0}, "ema"),
        ({"task_weight": -1.0}, "weights"),
        ({"task_weight": 0.0, "output_weight": 0.0, "feature_weight": 0.0}, "weights"),
        ({"explode": 1.0}, "explode"),
    ],
)
def test_wrong_settings(change: dict[str, Any], word: str) -> None:
    good: dict[str, Any] = {
        "steps": 4,
        "batch": 4,
        "learning_rate": 1e-3,
        "warmup": 1,
        "decay": "cosine",
        "clip_norm": 1.0,
        "ema": 0.9,
        "task_weight": 1.0,
        "output_weight": 1.0,
        "feature_weight": 1.0,
    }
    DistillationSettings(**good)
    with pytest.raises(LeanmotionError, match=word):
        DistillationSettings(**(good | change))
