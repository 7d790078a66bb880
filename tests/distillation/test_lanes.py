"""Shares of a micro-batch side by side: what they add up to, and that they keep out of each other's way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
import torch
from micro_training import SETTINGS, Killed, MemoryClips, drawing, encode, losses, same, scheduler, stop_after, train
from models import micro_unet

from leanmotion.distillation.distillation_settings import LossWeights
from leanmotion.distillation.lanes import Lanes, side_by_side
from leanmotion.distillation.losses import Batch
from leanmotion.distillation.objectives import compared
from leanmotion.distillation.setup import Setup
from leanmotion.model.memory import CHECKPOINTING, recomputed
from leanmotion.pipeline.processes import Ranks

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
FOUR = replace(SETTINGS, batch=4, steps=4)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def setup(student: Any, teacher: Any, weights: LossWeights, lanes: Lanes) -> Setup:
    settings = replace(SETTINGS, **{f"{name}_weight": float(weight) for name, weight in weights._asdict().items()})
    parameters = dict(student.named_parameters())
    return Setup(student, teacher, scheduler(), MemoryClips(), settings, encode, parameters, Ranks(), None, lanes)


def trained(threads: int, folder: Path, settings: Any = FOUR, **options: Any) -> tuple[Any, Any]:
    torch.set_num_threads(threads)
    found = train(folder, settings, **options)
    assert torch.get_num_threads() == threads
    return found


@pytest.mark.parametrize(("precision", "recompute"), [("fp32", "0"), ("fp32", "1"), ("bf16", "0")])
def test_two_lanes_are_one_thread_with_twice_the_micro_batches(
    precision: Any, recompute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: shares of two clips are the same calls on one thread each, and halves add exactly alike."""
    monkeypatch.setenv(CHECKPOINTING, recompute)
    settings = replace(FOUR, precision=precision)
    ends = []
    for threads, accumulate in ((2, 1), (1, 2)):
        student = micro_unet(1)
        with recomputed(student):
            ends.append(
                trained(threads, tmp_path / f"{threads}", replace(settings, accumulate=accumulate), student=student)
            )
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
    assert not same(ends[0][0], micro_unet(1))


@pytest.mark.parametrize("weights", [LossWeights(1, 1, 1), LossWeights(1, 0, 0), LossWeights(0, 0, 1)])
def test_uneven_shares_count_by_their_clips(weights: LossWeights) -> None:
    """Three clips in two lanes: the loss and the gradient of all three together."""
    latents, captions = MemoryClips().batch([0, 1, 2])
    states = encode(captions).repeat_interleave(2, dim=0)
    batch = Batch(latents, latents.flip(0), torch.tensor([1, 500, 999]), states)
    teacher, found, gradients = micro_unet(0).requires_grad_(False), [], []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        student = micro_unet(1)
        with side_by_side(CPU, 3) as lanes:
            found.append(compared(setup(student, teacher, weights, lanes), batch, torch.tensor(0.5)))
        gradients.append({name: p.grad for name, p in student.named_parameters() if p.grad is not None})
    whole, shared = found
    # The same sums in another order: float32 rounding through about 100 layers, as for micro-batches.
    torch.testing.assert_close(shared.student, whole.student, rtol=1e-4, atol=1e-5)
    assert (shared.teacher is None) == (whole.teacher is None)
    for name, value in whole.raw.items():
        assert shared.raw[name] == (None if value is None else pytest.approx(float(value.detach()), rel=1e-4)), name
    assert gradients[0].keys() == gradients[1].keys()
    # Some are 0 but for rounding (what a normalisation takes out again): rounding is of the size of the largest.
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5 * largest)
        assert gradients[1][name].stride() == gradient.stride()


def test_outputs_that_are_kept_do_not_mix() -> None:
    """Each share's blocks are compared with the teacher's of the same share, whichever runs when."""
    latents, captions = MemoryClips().batch([0, 1, 2, 3])
    states = encode(captions).repeat_interleave(2, dim=0)
    batch = Batch(latents, None, torch.tensor([1, 300, 600, 999]), states)
    student, teacher = micro_unet(1), micro_unet(0).requires_grad_(False)
    torch.set_num_threads(1)
    one_by_one = [
        losses(student, teacher, Batch(latents[i], None, batch.timesteps[i], states[j]), LossWeights(0, 0, 1)).total
        for i, j in ((slice(0, 2), slice(0, 4)), (slice(2, 4), slice(4, 8)))
    ]
    torch.set_num_threads(2)
    with side_by_side(CPU, 4) as lanes:
        for _ in range(10):
            found = compared(setup(student, teacher, LossWeights(0, 0, 1), lanes), batch, torch.tensor(1.0))
            assert found.total == (one_by_one[0] / 2 + one_by_one[1] / 2)


@pytest.mark.parametrize(("inputs", "guidance"), [("clips", 1.0), ("teacher", 1.0), ("student", 3.0)])
def test_a_killed_run_ends_bit_for_bit_alike(inputs: Any, guidance: float, tmp_path: Path) -> None:
    settings = replace(FOUR, inputs=inputs, task_weight=0.0, validation=3)
    told: list[tuple[float, float]] = []
    how: dict[str, Any] = {"drawing": drawing(guidance=guidance), "validated": lambda *found: told.append(found)}
    whole, rows = trained(2, tmp_path / "whole", settings, **how)
    with pytest.raises(Killed):
        trained(2, tmp_path / "cut", settings, **how, progress=stop_after(2))
    assert torch.get_num_threads() == 2
    student, again = trained(2, tmp_path / "cut", settings, **how)
    assert same(student, whole) and again == rows and told[0] == told[1]
    _, plain = trained(1, tmp_path / "alone", settings, **how)
    # As for micro-batches on trajectories: rounding through the steps before.
    for a, b in zip(rows, plain, strict=True):
        assert a["total"] == pytest.approx(b["total"], rel=1e-3)
    assert told[0] == pytest.approx(told[2], rel=1e-2)


def test_float16_resumes_with_its_scaler(tmp_path: Path) -> None:
    settings = replace(FOUR, precision="fp16")
    whole, rows = trained(2, tmp_path / "whole", settings)
    with pytest.raises(Killed):
        trained(2, tmp_path / "cut", settings, progress=stop_after(2))
    student, again = trained(2, tmp_path / "cut", settings)
    assert same(student, whole) and again == rows


def test_passes_keep_to_a_core_each(tmp_path: Path) -> None:
    """All passes of training, of its inputs and of validation."""
    seen: list[tuple[int, int]] = []
    student, teacher = micro_unet(1), micro_unet(0)
    for network in (student, teacher):
        network.register_forward_pre_hook(lambda *_: seen.append((get_ident(), torch.get_num_threads())))
    settings = replace(SETTINGS, batch=2, steps=2, inputs="teacher", task_weight=0.0, validation=2)
    trained(2, tmp_path, settings, student=student, teacher=teacher)
    assert {number for _, number in seen} == {1}
    assert get_ident() not in {thread for thread, _ in seen}


@pytest.mark.parametrize(
    ("threads", "clips", "lanes", "each"), [(4, 9, 4, 1), (4, 2, 2, 2), (3, 2, 2, 1), (2, 1, 1, 2)]
)
def test_threads_are_divided_among_lanes(threads: int, clips: int, lanes: int, each: int) -> None:
    """Where there is one lane all is computed where it was, by the caller."""
    seen: list[tuple[int, int]] = []

    def network(sample: torch.Tensor, timestep: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        seen.append((len(sample), torch.get_num_threads()))
        return (sample,)

    torch.set_num_threads(threads)
    rows = torch.arange(clips)
    with side_by_side(CPU, clips) as divided:
        call = divided.drawing(network, nullcontext)
        assert torch.equal(call(rows, rows[0], encoder_hidden_states=rows.repeat(2))[0], rows)
    assert divided.count == len(seen) == lanes and {number for _, number in seen} == {each}
    sizes = sorted(size for size, _ in seen)
    assert sum(sizes) == clips and sizes[-1] - sizes[0] <= 1
    assert torch.get_num_threads() == threads


def test_a_graphics_card_is_one_lane() -> None:
    torch.set_num_threads(2)
    with side_by_side(torch.device("cuda"), 8) as lanes:
        assert lanes.count == 1 and torch.get_num_threads() == 2
        network = torch.nn.Identity()
        assert lanes.drawing(network, nullcontext) is network


def test_an_error_in_a_share_is_the_error(tmp_path: Path) -> None:
    student = micro_unet(1)

    def fail(*_: Any) -> None:
        raise MemoryError

    student.mid_block.register_forward_pre_hook(fail)
    torch.set_num_threads(2)
    with pytest.raises(MemoryError):
        train(tmp_path, FOUR, student=student)
    assert torch.get_num_threads() == 2
    assert all(not block._forward_hooks for block in (*student.down_blocks, student.mid_block, *student.up_blocks))
