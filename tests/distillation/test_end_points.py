"""Distilling where sampling ends: its gradient in closed form, resuming, sharing, and what the teacher draws."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from micro_training import SETTINGS, Killed, MemoryClips, encode, same, scheduler, stop_after
from micro_training import train as plain_train
from models import micro_unet
from torch import Tensor, nn

from leanmotion.distillation.end_points import EndPoints
from leanmotion.distillation.lanes import Lanes
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.schedule import draw, noise_of_clip
from leanmotion.distillation.setup import Setup
from leanmotion.distillation.teacher_clips import TeacherClips
from leanmotion.distillation.validation import drawn_distance
from leanmotion.errors import LeanmotionError
from leanmotion.model.memory import CHECKPOINTING, recomputed
from leanmotion.pipeline.processes import Ranks
from leanmotion.pipeline.settings import Prompts
from leanmotion.prompts.splits import SPLITS, prompt_rows

pytestmark = pytest.mark.numeric

ENDS = replace(
    SETTINGS, task_weight=0.0, objective="endpoint", endpoint_clips=6, last_steps=2, batch=4, steps=4, validation=2,
    learning_rate=1e-3, ema=0.0, warmup=0,
)  # fmt: skip


def drawing(steps: int = 3, guidance: float = 1.0, chunk: int | None = None) -> Drawing:
    """DDIM as AnimateDiff samples with it: nothing is cut off, each step is linear in latents and prediction."""
    return Drawing(DDIMScheduler(beta_schedule="linear", clip_sample=False), steps, guidance, "nothing", chunk)


def train(folder: Path, settings: Any = ENDS, **options: Any) -> tuple[Any, Any]:
    return plain_train(folder, settings, **{"drawing": drawing(), **options})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Scale(nn.Module):
    """A linear network: w times what it is shown."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, sample: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        return (self.w * sample,)


def setup_of(student: nn.Module, teacher: nn.Module, settings: Any = ENDS, **options: Any) -> Setup:
    given: dict[str, Any] = {"ranks": Ranks(), "sampler": drawing(steps=3), "lanes": Lanes(), **options}
    return Setup(
        student, teacher, scheduler(), MemoryClips(), settings, encode, dict(student.named_parameters()), **given
    )


@pytest.mark.parametrize("last", [1, 2, 3])
def test_the_gradient_through_the_last_steps_in_closed_form(last: int) -> None:
    """A step of DDIM is z' = a z + b S(z), with S = w z thus z' = (a + b w) z; K = all steps is the whole gradient."""
    student, teacher, settings = Scale(0.5), Scale(-0.3), replace(ENDS, last_steps=last)
    setup = setup_of(student, teacher, settings)
    targets = TeacherClips(setup, range(4), None)
    objective = EndPoints(setup, targets)
    objective.prepare()
    loss = objective.backward(0, range(4), torch.tensor(2.0))["endpoint"]

    one, zero = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    sampler = setup.drawing
    a = [float(sampler.stepped(zero, one, i, ["x"])) for i in range(3)]
    b = [float(sampler.stepped(one, zero, i, ["x"])) for i in range(3)]

    def end(w: float) -> float:
        return (a[0] + b[0] * w) * (a[1] + b[1] * w) * (a[2] + b[2] * w)

    factors = [a[i] + b[i] * 0.5 for i in range(3)]
    # Only the factors of the last steps are differentiated.
    slope = sum(b[j] * end(0.5) / factors[j] for j in range(3 - last, 3))
    noise = torch.stack([noise_of_clip(ENDS.seed, p, targets.shape) for p in range(4)])
    power, scale = float(noise.square().mean()), float((end(-0.3) * noise).square().mean())
    assert targets.mean_square == pytest.approx(scale, rel=1e-5)
    difference = end(0.5) - end(-0.3)
    assert float(loss) == pytest.approx(difference**2 * power / scale, rel=1e-5)
    gradient = student.w.grad
    assert gradient is not None
    assert float(gradient) == pytest.approx(2.0 * 2 * difference * slope * power / scale, rel=1e-4)


def test_all_steps_are_the_whole_gradient() -> None:
    """Of a UNet, under guidance: that of the sampler's loop, written out."""
    student, teacher = micro_unet(1), micro_unet(0).requires_grad_(False)
    setup = setup_of(student, teacher, replace(ENDS, last_steps=3), sampler=drawing(steps=3, guidance=3.0))
    targets = TeacherClips(setup, range(2), None)
    objective = EndPoints(setup, targets)
    objective.prepare()
    objective.backward(0, range(2), torch.tensor(1.0))
    found = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()

    order = objective._positions(0, range(2))
    noise, states, keys, theirs = targets.batch(order)
    latents = noise
    for index in range(3):
        prediction = setup.drawing.predicted(student, latents, index, states)
        latents = setup.drawing.stepped(prediction, latents, index, keys)
    ((latents - theirs).square().mean() / targets.mean_square).backward()
    assert found
    for name, p in student.named_parameters():
        assert torch.equal(found[name], p.grad) if p.grad is not None else name not in found


def test_validation_measures_what_is_trained() -> None:
    """0 for the teacher itself, and for a student the loss of the objective on the same end points."""
    teacher, student = micro_unet(0), micro_unet(1)
    setup = setup_of(student, teacher)
    targets = TeacherClips(setup, range(4), None)
    objective = EndPoints(setup, targets)
    objective.prepare()
    loss = objective.backward(0, range(4), torch.tensor(1.0))["endpoint"]
    # The same squares, summed in another order.
    assert drawn_distance(setup, targets) == pytest.approx(float(loss), rel=1e-5)
    assert drawn_distance(setup_of(teacher, teacher), targets) == 0.0


@pytest.mark.parametrize(("threads", "guidance"), [(1, 1.0), (2, 3.0)])
def test_a_killed_run_ends_bit_for_bit_alike(threads: int, guidance: float, tmp_path: Path) -> None:
    torch.set_num_threads(threads)
    told: list[tuple[float, float]] = []
    how: dict[str, Any] = {"drawing": drawing(guidance=guidance), "validated": lambda *found: told.append(found)}
    whole, rows = train(tmp_path / "whole", ENDS, **how)
    assert all(row["total"] == row["endpoint"] and row["output"] is None for row in rows)
    assert told[0][1] < told[0][0]
    for after in (0, 2):
        with pytest.raises(Killed):
            train(tmp_path / f"{after}", ENDS, **how, progress=stop_after(after))
        student, again = train(tmp_path / f"{after}", ENDS, **how)
        assert same(student, whole) and again == rows and told[-1] == told[0]


@pytest.mark.parametrize(("precision", "recompute"), [("fp32", "0"), ("fp32", "1"), ("bf16", "0")])
def test_two_lanes_are_one_thread_with_twice_the_micro_batches(
    precision: Any, recompute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: the same calls on one thread each, whatever passes without gradients run beside them."""
    monkeypatch.setenv(CHECKPOINTING, recompute)
    # End points that come out even: the teacher draws them in shares, too.
    settings, ends = replace(ENDS, precision=precision, endpoint_clips=8, validation=0), []
    for threads, accumulate in ((2, 1), (1, 2)):
        torch.set_num_threads(threads)
        student = micro_unet(1)
        with recomputed(student):
            ends.append(train(tmp_path / f"{threads}", replace(settings, accumulate=accumulate), student=student))
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
    assert not same(ends[0][0], micro_unet(1))


def test_recomputing_activations_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for asked in ("0", "1"):
        monkeypatch.setenv(CHECKPOINTING, asked)
        student = micro_unet(1)
        with recomputed(student):
            ends.append(train(tmp_path / asked, ENDS, student=student))
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


class Pair(Ranks):
    """Two processes as threads of this one."""

    meeting = threading.Barrier(2, timeout=60)
    table: list[Any] = [None, None]  # noqa: RUF012

    def agree(self, value: Any) -> Any:
        self.table[self.index] = value
        self.meeting.wait()
        found = self.table[0]
        self.meeting.wait()
        return found

    def add(self, tensors: Sequence[Tensor]) -> None:
        self.table[self.index] = [t.clone() for t in tensors]
        self.meeting.wait()
        for tensor, a, b in zip(tensors, *self.table, strict=True):
            tensor.copy_(a + b)
        self.meeting.wait()

    def wait(self) -> None:
        self.meeting.wait()


def test_two_processes_are_one_with_two_micro_batches(tmp_path: Path) -> None:
    """Bit for bit, as the sum of two numbers knows no order; they share what the teacher draws, each a half."""
    alone, rows = train(tmp_path / "alone", replace(ENDS, accumulate=2))
    found: dict[int, Any] = {}
    # Not in the threads: making them sets torch's own generator.
    networks = [{"student": micro_unet(1), "teacher": micro_unet(0)} for _ in range(2)]

    def run(index: int) -> None:
        torch.set_num_threads(1)  # of this thread
        told: list[int] = []
        student, found_rows = train(
            tmp_path / "both" / f"{index}", replace(ENDS, accumulate=2), ranks=Pair(index, 2),
            teacher_clips=tmp_path / "clips", drawn=told.append, **networks[index],
        )  # fmt: skip
        found[index] = student, found_rows, sum(told)

    workers = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index in (0, 1):
        student, found_rows, _ = found[index]
        assert same(student, alone) and found_rows == rows
    # Three parts of two to train on, and one for validation.
    assert sorted(drawn for *_, drawn in found.values()) == [2, 6] or {found[0][2], found[1][2]} == {4}


def test_the_teacher_draws_once(tmp_path: Path) -> None:
    """A part that is there is never drawn again, whoever is killed; a damaged one is; more clips keep the earlier."""
    setup, told = setup_of(micro_unet(1), micro_unet(0)), []

    def clips(count: int) -> TeacherClips:
        told.clear()
        return TeacherClips(setup, range(count), tmp_path, told.append)

    def stop(count: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        TeacherClips(setup, range(8), tmp_path, stop).prepare()
    first = clips(8)
    first.prepare()
    whole = first.batch(range(8))
    assert sum(told) in (4, 8), "what was drawn before the kill may not have been written"
    clips(8).prepare()
    assert told == []
    (tmp_path / "4-8.parquet").write_bytes(b"damaged")
    again = clips(8)
    again.prepare()
    assert told == [4] and torch.equal(again.batch(range(8)).latents, whole.latents)
    more = clips(10)
    more.prepare()
    assert told == [2] and torch.equal(more.batch([1, 5]).latents, whole.latents[[1, 5]])
    # Without a folder they are the same, in memory.
    plain = TeacherClips(setup, range(8), None)
    plain.prepare()
    assert torch.equal(plain.batch(range(8)).latents, whole.latents) and plain.mean_square == again.mean_square


def test_the_teacher_draws_as_many_together_as_sampling_does(tmp_path: Path) -> None:
    """Whatever the micro-batch; what is cut otherwise is kept as another part."""
    told: list[int] = []
    setup = setup_of(micro_unet(1), micro_unet(0), sampler=drawing(chunk=3))
    clips = TeacherClips(setup, range(7), tmp_path, told.append)
    clips.prepare()
    assert told == [3, 3, 1] and setup.settings.batch == 4
    other = TeacherClips(setup_of(micro_unet(1), micro_unet(0)), range(7), None)
    other.prepare()
    # Kernels choose their blocking by the batch: float32 rounding through three steps.
    found = (clips.batch(range(7)).latents, other.batch(range(7)).latents)
    assert torch.allclose(*found, atol=1e-4 * float(found[0].abs().max()), rtol=0)


def test_clips_that_are_not_finite_are_refused() -> None:
    setup = setup_of(Scale(1.0), Scale(float("nan")))
    with pytest.raises(LeanmotionError, match="the teacher's clips are not finite"):
        TeacherClips(setup, range(2), None).prepare()


def test_end_points_have_noise_of_their_own(tmp_path: Path) -> None:
    """Of no training step, of no prompt of any split; and no validation clip is one that is trained on."""

    def start(noise: Tensor) -> tuple[float, ...]:
        return tuple(noise.flatten()[:3].tolist())

    ends = {start(noise_of_clip(0, p, (3,))) for p in range(600)}
    steps = {start(draw(0, p, (3,), 1000)[2]) for p in range(2000)}
    source = "builtin/sprites-captions"
    prompts = Prompts(source=source, rank=48, select=48, report=48, confirm=2, confirm_source=source)
    splits = [*SPLITS, *prompts.confirm_splits]
    seeds = [row[f"seed_{s}"] for split in splits for row in prompt_rows(prompts, split) for s in "ab"]
    drawn = {start(torch.randn(3, generator=torch.Generator().manual_seed(seed))) for seed in seeds}
    assert len(ends) == 600 and not ends & steps and not ends & drawn

    train(tmp_path / "run", replace(ENDS, steps=1), teacher_clips=tmp_path / "clips")
    assert sorted(path.stem for path in (tmp_path / "clips").iterdir()) == ["0-4", "4-6", "6-8"]


def test_every_pass_has_each_end_point_once() -> None:
    setup = setup_of(micro_unet(1), micro_unet(0))
    objective = EndPoints(setup, TeacherClips(setup, range(6), None))
    seen = [position for step in range(6) for position in objective._positions(step, range(4))]
    for first in range(0, 24, 6):
        assert sorted(seen[first : first + 6]) == list(range(6))
    assert seen[:6] != seen[6:12]
    assert objective.captions(0) == objective.targets.captions(seen[:4])


def test_a_budget_by_the_distance(tmp_path: Path) -> None:
    asked: list[float] = []

    def budget(distance: float) -> int:
        asked.append(distance)
        return 3

    told: list[Any] = []
    options: dict[str, Any] = {"budget": budget, "planned": told.append, "validated": lambda *found: told.append(found)}
    whole, rows = train(tmp_path / "whole", ENDS, **options)
    assert len(rows) == 3 == told[0] and told[1][0] == asked[0]
    with pytest.raises(Killed):
        train(tmp_path / "cut", ENDS, **options, progress=stop_after(1))
    # What was planned stands in the checkpoint: nothing is measured anew.
    student, again = train(tmp_path / "cut", ENDS, **(options | {"budget": lambda distance: 99}))
    assert same(student, whole) and again == rows and len(asked) == 2
    # No step: the student is untouched, and both distances are its own; the teacher drew nothing to train on.
    told.clear()
    drawn: list[int] = []
    still, none = train(tmp_path / "none", ENDS, **(options | {"budget": lambda distance: 0}), drawn=drawn.append)
    assert none == [] and same(still, micro_unet(1)) and told[1] == (asked[0], asked[0]) and sum(drawn) == 2
    with pytest.raises(ValueError, match=r"set distillation\.validation"):
        train(tmp_path / "blind", replace(ENDS, validation=0), budget=budget)


def test_what_end_points_need(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match="task_weight must be 0 where objective is endpoint"):
        replace(ENDS, task_weight=0.5)
    with pytest.raises(ValueError, match="give the sampler"):
        train(tmp_path, replace(ENDS, validation=0), drawing=None)
