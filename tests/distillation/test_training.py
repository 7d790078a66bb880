"""The loop: what it trains, that a killed run ends where an uninterrupted one does, and when it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro_training import SETTINGS, Killed, MemoryClips, encode, same, stop_after, train
from models import micro_unet
from torch import Tensor

from leanmotion.distillation.checkpoints import CheckpointStore
from leanmotion.distillation.schedule import COLUMNS, LossRow, diverged, draw, ema_decay, learning_rate
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.processes import Ranks

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module", autouse=True)
def as_many_threads() -> Iterator[None]:
    """One, in place of the suite's: bits are promised for one count, and the process that is killed below has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[LossRow]]:
    return train(tmp_path_factory.mktemp("whole"))


def test_only_motion_modules_change_and_the_loss_falls(uninterrupted: tuple[Any, list[LossRow]]) -> None:
    student, rows = uninterrupted
    start = micro_unet(1).state_dict()
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, start[name])}
    assert changed and all(".motion_modules." in name for name in changed)
    assert [tuple(row) for row in rows] == [COLUMNS] * 6
    assert [row["step"] for row in rows] == list(range(6))
    assert not student.training and all(p.requires_grad and p.grad is None for p in student.parameters())
    for row in rows:
        assert row["total"] == pytest.approx(0.5 * (row["task"] or 0) + (row["output"] or 0) + (row["feature"] or 0))


def test_without_a_folder_nothing_is_kept_and_the_student_is_the_same(
    uninterrupted: tuple[Any, list[LossRow]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    student, rows = train(tmp_path, checkpoint_dir=None)
    assert rows == uninterrupted[1] and same(student, uninterrupted[0])
    assert not list(tmp_path.iterdir())


def test_it_learns_a_known_student_back(tmp_path: Path) -> None:
    """A teacher whose motion modules were disturbed is pulled back towards the teacher."""
    teacher, student = micro_unet(0), micro_unet(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in student.named_parameters():
            if ".motion_modules." in name:
                p.add_(0.3 * torch.randn(p.shape, generator=g))
    settings = replace(SETTINGS, steps=30, warmup=3, task_weight=0.0, checkpoint_every=1000, ema=0.0)
    _, rows = train(tmp_path, settings, student=student, teacher=teacher)
    feature = [row["feature"] or 0.0 for row in rows]
    # Five clips and few timesteps: measured 0.5; three quarters leaves room for another machine's rounding.
    assert sum(feature[-5:]) < 0.75 * sum(feature[:5])


def test_training_that_does_not_help_is_not_kept(tmp_path: Path) -> None:
    """A student that is its teacher cannot gain: its weights come back untouched, also from a finished checkpoint."""
    start = micro_unet(0)
    seen: list[tuple[float, float]] = []
    for _ in range(2):
        student, _ = train(
            tmp_path,
            replace(SETTINGS, task_weight=0.0, output_weight=0.0, weight_decay=0.1, validation=2),
            student=micro_unet(0),
            validated=lambda *losses: seen.append(losses),
        )
        # The loss is 0 and so is its gradient; weight decay alone moves the weights.
        assert seen[-1][0] == 0 < seen[-1][1]
        assert same(student, start)
    assert seen[0] == seen[1]


def test_training_that_helps_is_kept(tmp_path: Path) -> None:
    settings = replace(SETTINGS, task_weight=0.0, steps=20, ema=0.0, validation=4)
    plain, _ = train(tmp_path / "plain", replace(settings, validation=0))
    seen: list[tuple[float, float]] = []
    student, _ = train(tmp_path / "asked", settings, validated=lambda *losses: seen.append(losses))
    assert seen[0][1] < seen[0][0]
    assert same(student, plain)


@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_an_interrupted_run_ends_bit_for_bit_alike(
    step: int, tmp_path: Path, uninterrupted: tuple[Any, list[LossRow]]
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, progress=stop_after(step))
    clips = MemoryClips()
    seen: list[Any] = []
    student, rows = train(tmp_path, clips=clips, progress=lambda row: seen.append(row["step"]))
    assert same(student, uninterrupted[0])
    assert rows == uninterrupted[1]
    # It did go on from the last checkpoint rather than start again.
    assert seen == list(range((step + 1) // 2 * 2, 6))
    # A finished one returns at once.
    again, rows = train(tmp_path, progress=stop_after(5))
    assert same(again, student) and rows == uninterrupted[1]


def test_sigkill(tmp_path: Path, uninterrupted: tuple[Any, list[LossRow]]) -> None:
    code = (
        "from pathlib import Path; import torch; torch.set_num_threads(1); import micro_training as t; "
        f"t.train(Path({str(tmp_path)!r}), progress=lambda row: print('step', row['step'], flush=True))"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True, cwd=here.parent
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "step 2":
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    student, rows = train(tmp_path)
    assert same(student, uninterrupted[0]) and rows == uninterrupted[1]


def test_a_checkpoint_of_other_settings_or_weights_is_left_alone(
    tmp_path: Path, uninterrupted: tuple[Any, list[LossRow]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, progress=stop_after(3))
    mine = next(tmp_path.glob("checkpoint-*.pt"))
    before = mine.read_bytes()
    for change in ({"settings": replace(SETTINGS, learning_rate=2e-2)}, {"teacher": micro_unet(5)}):
        seen: list[Any] = []
        train(tmp_path, **change, progress=lambda row, seen=seen: seen.append(row["step"]))
        assert seen == list(range(6))
    assert "left alone" in caplog.text
    assert mine.read_bytes() == before
    # How often checkpoints are written is no part of the result.
    seen = []
    student, _ = train(tmp_path, replace(SETTINGS, checkpoint_every=5), progress=lambda row: seen.append(row["step"]))
    assert seen == [4, 5] and same(student, uninterrupted[0])


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, progress=stop_after(3))
    path = next(tmp_path.glob("checkpoint-*.pt"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LeanmotionError, match="not a readable checkpoint"):
        train(tmp_path)


def test_a_writer_killed_half_way_leaves_the_former_checkpoint(
    tmp_path: Path, uninterrupted: tuple[Any, list[LossRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.save, []

    def save(state: Any, file: Any) -> None:
        calls.append(None)
        if len(calls) == 2:
            file.write(b"half a check")
            raise Killed
        real(state, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(Killed):
        train(tmp_path)
    student, _ = train(tmp_path)
    assert same(student, uninterrupted[0])
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt"]


def test_a_checkpoint_is_written_beside_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds what was when it was asked for, whatever is changed meanwhile; the one before it is waited for."""
    real, begun, go = torch.save, threading.Event(), threading.Event()

    def slow(state: Any, file: Any) -> None:
        begun.set()
        assert go.wait(60)
        real(state, file)

    monkeypatch.setattr(torch, "save", slow)
    store, weights = CheckpointStore(tmp_path, "a" * 64), torch.arange(4.0)
    state = {"weights": {"w": weights}, "optimizer": {"state": {0: {"step": weights}}, "betas": (0.9, [0.99])}}
    store.save_beside({**state, "rows": torch.zeros(2, 1)})
    assert begun.wait(60) and not list(tmp_path.glob("*.pt"))
    weights.zero_()
    go.set()
    store.save_beside({**state, "rows": torch.zeros(3, 1)})
    first = store.load if store.path.is_file() else None
    assert first is not None  # the first is whole before the second is begun
    store.close()
    found = CheckpointStore(tmp_path, "a" * 64).load()
    assert found is not None and len(found["rows"]) == 3 and found["optimizer"]["betas"] == (0.9, [0.99])
    assert found["weights"]["w"].tolist() == [0, 0, 0, 0]


def test_a_checkpoint_holds_no_later_step(tmp_path: Path) -> None:
    store, weights = CheckpointStore(tmp_path, "a" * 64), torch.arange(4.0)
    store.save_beside({"weights": weights, "list": [weights], "rows": torch.zeros(2, 1)})
    weights.zero_()
    store.wait()
    found = store.load()
    assert found is not None and found["weights"].tolist() == found["list"][0].tolist() == [0, 1, 2, 3]
    store.close()


def test_only_what_trains_is_in_a_checkpoint(tmp_path: Path) -> None:
    """Four numbers for each that trains: weights, average and AdamW's two moments; nothing that is frozen."""
    train(tmp_path)
    path = next(tmp_path.glob("checkpoint-*.pt"))
    trained = sum(v.nbytes for k, v in micro_unet(1).state_dict().items() if ".motion_modules." in k and "pe" not in k)
    whole = sum(v.nbytes for v in micro_unet(1).state_dict().values())
    state = torch.load(path, weights_only=True)
    assert sum(v.nbytes for v in state["weights"].values()) <= trained < whole
    moments = sum(v.nbytes for s in state["optimizer"]["state"].values() for v in s.values() if v.ndim)
    assert moments == 2 * sum(v.nbytes for v in state["average"].values())


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LeanmotionError, match="cannot be written"):
        train(tmp_path)
    assert not list(tmp_path.iterdir())


def test_micro_batches_give_the_same_step(tmp_path: Path) -> None:
    one = replace(SETTINGS, steps=1, batch=4)
    a = train(tmp_path / "a", one)[1][0]
    b = train(tmp_path / "b", replace(one, accumulate=4))[1][0]
    # The same clips, timesteps and noise, summed in another order: float32 rounding through about 100 layers.
    for column in COLUMNS:
        wanted = b[column]
        assert a[column] == (None if wanted is None else pytest.approx(wanted, rel=1e-4)), column


class OneOfTwo(Ranks):
    """One of two processes whose partner has the same share: a sum over processes doubles."""

    def add(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(2)

    def agree(self, value: Any) -> Any:
        return value


def test_processes_divide_the_batch(tmp_path: Path) -> None:
    """The global batch and its micro-batches are the settings'; how many of them a process takes is derived."""
    for accumulate, micro in ((2, 2), (1, 2), (4, 1)):
        asked = []
        for index in (0, 1):
            clips = MemoryClips()
            settings = replace(SETTINGS, steps=2, batch=4, accumulate=accumulate)
            train(tmp_path / f"{accumulate}-{index}", settings, clips=clips, ranks=OneOfTwo(index, 2))
            asked.append(clips.asked)
            assert set(clips.sizes) == {micro}
        whole = MemoryClips().order(SETTINGS.seed, 0, 8)
        assert asked[0] == whole[0:2] + whole[4:6] and asked[1] == whole[2:4] + whole[6:8]
    with pytest.raises(LeanmotionError, match="multiple of 2"):
        train(tmp_path / "odd", replace(SETTINGS, batch=3), ranks=OneOfTwo(0, 2))


def test_nothing_left_to_train(tmp_path: Path) -> None:
    student = micro_unet(1)
    blocks = [*student.down_blocks, student.mid_block, *student.up_blocks]
    for block in blocks:
        block.motion_modules = torch.nn.ModuleList(torch.nn.Identity() for _ in block.motion_modules)
    assert train(tmp_path, student=student)[1] == []
    assert train(tmp_path, replace(SETTINGS, steps=0))[1] == []
    assert not list(tmp_path.iterdir())


def test_a_student_must_not_train_its_teacher(tmp_path: Path) -> None:
    unet = micro_unet(0)
    with pytest.raises(ValueError, match="teacher's own"):
        train(tmp_path, student=unet, teacher=unet)


def test_bfloat16_runs_and_keeps_float32_weights(tmp_path: Path) -> None:
    student, rows = train(tmp_path, replace(SETTINGS, steps=2, precision="bf16"))
    assert len(rows) == 2 and {p.dtype for p in student.parameters()} == {torch.float32}


def test_float16_resumes_with_its_scaler(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=4, precision="fp16")
    whole, rows = train(tmp_path / "whole", settings)
    with pytest.raises(Killed):
        train(tmp_path / "cut", settings, progress=stop_after(2))
    student, again = train(tmp_path / "cut", settings)
    assert same(student, whole) and again == rows


def test_divergence_names_step_term_and_checkpoint(tmp_path: Path) -> None:
    clips = MemoryClips()
    whole = clips.batch

    def poisoned(indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        latents, captions = whole(indices)
        return latents * (float("nan") if len(clips.asked) > 8 else 1), captions

    clips.batch = poisoned
    with pytest.raises(LeanmotionError, match=r"step 4: task is nan.*learning_rate.*checkpoint-\w+\.pt after 4 steps"):
        train(tmp_path, clips=clips)


def rows_of(*totals: float, **last: float | None) -> list[LossRow]:
    rows: list[LossRow] = [
        {"total": t, "task": t, "output": t, "feature": t, "gradient_norm": 1.0}
        | {"task_weighted": t / 2, "output_weighted": t / 2, "feature_weighted": None, "endpoint_weighted": None}
        for t in totals
    ]
    rows[-1].update(last)
    return rows


def test_when_a_loss_explodes() -> None:
    usual = [1.0] * 20
    assert diverged(rows_of(*usual, 19.9), 20.0) == ""
    assert diverged(rows_of(*usual, 20.1), 20.0) == "task is 20.1 times its running median"
    assert "output is 90 times" in diverged(rows_of(*usual, 60.0, output=90.0), 20.0)
    # Too few steps for a median; and a slow rise over more than its window is none.
    assert diverged(rows_of(*usual[:19], 1000.0), 20.0) == ""
    assert diverged(rows_of(*[1.0] * 20, *[100.0] * 101), 20.0) == ""
    assert diverged(rows_of(1.0, task=float("inf")), 20.0) == "task is inf"
    assert diverged(rows_of(1.0, gradient_norm=float("nan")), 20.0) == "gradient_norm is nan"
    overflow = rows_of(*usual, 1.0)
    assert diverged([{**row, "gradient_norm": None} for row in overflow], 20.0) == (
        "the gradient overflows float16 20 steps on end"
    )


def test_learning_rate_and_average() -> None:
    settings = replace(SETTINGS, steps=10, warmup=3, learning_rate=4.0)
    rates = [learning_rate(settings, step) for step in range(10)]
    assert rates[:4] == [1.0, 2.0, 3.0, 4.0]
    # Half a cosine over the 7 steps after warm-up: symmetric around its middle, 0 at step 10.
    assert rates[3] + learning_rate(settings, 10) == pytest.approx(4.0)
    assert rates[5] + rates[8] == pytest.approx(4.0)
    assert learning_rate(replace(settings, decay="constant"), 9) == 4.0
    assert ema_decay(0.0, 100) == 0.0
    assert ema_decay(0.99, 0) == 0.1 and ema_decay(0.99, 10**6) == 0.99


def test_the_average_is_what_the_student_ends_with(tmp_path: Path) -> None:
    last, _ = train(tmp_path / "last", replace(SETTINGS, steps=1, ema=0.0))
    mean, _ = train(tmp_path / "mean", replace(SETTINGS, steps=1, ema=0.9))
    start = micro_unet(1).state_dict()
    name = "mid_block.motion_modules.0.proj_in.weight"
    # After one step the decay is 1/10.
    torch.testing.assert_close(mean.state_dict()[name], 0.1 * start[name] + 0.9 * last.state_dict()[name])
    assert not torch.equal(last.state_dict()[name], start[name])


def test_noise_belongs_to_seed_and_position() -> None:
    a, b = draw(1, 7, (2, 3), 1000), draw(1, 7, (2, 3), 1000)
    assert a[:2] == b[:2] and torch.equal(a[2], b[2])
    assert not torch.equal(a[2], draw(1, 8, (2, 3), 1000)[2]) and not torch.equal(a[2], draw(2, 7, (2, 3), 1000)[2])
    steps = [draw(0, p, (1,), 10)[0] for p in range(200)]
    assert set(steps) == set(range(10))


def test_captions_drop_out(tmp_path: Path) -> None:
    said: list[str] = []

    def listening(captions: list[str]) -> Tensor:
        said.extend(captions)
        return encode(captions)

    train(tmp_path, replace(SETTINGS, steps=1, caption_dropout=1.0), encode=listening)
    assert said == ["", ""]


def test_caption_states_do_not_depend_on_company() -> None:
    from leanmotion.distillation.caption_states import CaptionEncoder

    torch_free = torch.Generator().manual_seed(0)
    model: Any = torch.nn.Embedding.from_pretrained(torch.randn((300, 4), generator=torch_free))
    model.device = torch.device("cpu")
    model.forward = lambda ids, table=model.weight: (table[ids],)

    class Tokenizer:
        model_max_length = 5

        def __call__(self, caption: str, **_: Any) -> Any:
            return SimpleNamespace(input_ids=torch.tensor([[ord(c) for c in caption[:5].ljust(5)]]))

    encoder = CaptionEncoder(Tokenizer(), model)
    pair = encoder(["ab", "cd"])
    assert pair.shape == (2, 5, 4)
    assert torch.equal(pair[1:], encoder(["cd"])) and len(encoder.digest) == 64
