"""Two ranks, forked and joined over gloo: what they sum and share, and that they train what one process trains."""

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from micro_training import SETTINGS, train

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.processes import Ranks, is_main, is_rank, ranks

pytestmark = pytest.mark.numeric

FOUR = replace(SETTINGS, batch=4, accumulate=2, checkpoint_every=1)


@pytest.fixture(autouse=True)
def one_thread(as_many_threads: None) -> None:
    """A fork has none of its parent's threads: with several, its first convolution waits for them for good."""
    torch.set_num_threads(1)


def together(body: Callable[[Ranks], Any]) -> list[int]:
    """Run `body` in two forks of this process that form a process group; their exit codes, 1 for an exception.

    Forks, since importing the libraries anew takes seconds; with one thread there is no pool that a fork would break.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for index in range(2):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                import torch.distributed as dist

                store = dist.TCPStore("127.0.0.1", port, 2, index == 0, timedelta(seconds=60))
                dist.init_process_group("gloo", store=store, rank=index, world_size=2)
                body(Ranks(index, 2))
                dist.barrier()
                code = 0
            except BaseException as error:  # the parent sees the code, and pytest's captured output
                print(index, repr(error))
            finally:
                os._exit(code)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def saved(path: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    found = torch.load(path, weights_only=True)
    return found["weights"], found["rows"]


def train_together(folder: Path, settings: Any, dies_at: int | None = None) -> list[int]:
    """Train on two ranks, which share a checkpoint folder; each saves what it ends with. Rank 1 may die at a step."""

    def body(us: Ranks) -> None:
        def progress(row: Any) -> None:
            if us.index == 1 and row["step"] == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

        student, rows = train(folder, settings, ranks=us, progress=progress)
        torch.save({"weights": student.state_dict(), "rows": rows}, folder / f"rank-{us.index}.pt")

    return together(body)


def test_alone_there_is_nobody_to_wait_for() -> None:
    alone = Ranks()
    tensor = torch.tensor([1.5])
    alone.add([tensor])
    alone.wait()
    assert alone.main and tensor.item() == 1.5 and alone.agree("x") == "x"
    assert alone.divide(["b", "a"]) == {"a", "b"}
    assert ranks() == alone and is_main() and not is_rank()


def test_sums_are_the_same_bits_on_all_and_shares_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanmotion.pipeline.processes._BUCKET", 7)  # 2 + 3 go together, 40 alone, 1 after it

    def body(us: Ranks) -> None:
        drawn = [[torch.randn(n, 1, generator=g) for n in (2, 3, 40, 1)] for g in map(_generator, (0, 1))]
        own = [tensor.clone() for tensor in drawn[us.index]]
        us.add(own)
        assert all(torch.equal(summed, a + b) for summed, a, b in zip(own, *drawn, strict=True))
        # The second rank sees less, as the first has stored something meanwhile: the first one's list counts.
        names = ["a", "b", "c", "d", "e"] if us.main else ["b", "d", "e"]
        assert us.divide(names) == ({"a", "c", "e"} if us.main else {"b", "d"})
        assert us.agree(us.index) == 0

    assert together(body) == [0, 0]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_two_ranks_train_what_one_process_trains_bit_for_bit_where_each_has_one_micro_batch(tmp_path: Path) -> None:
    """One process adds g0 + g1 in `.grad`, two add g0 + g1 over gloo: addition of two floats commutes."""
    student, rows = train(tmp_path / "one", FOUR)
    (two := tmp_path / "two").mkdir()
    assert train_together(two, FOUR) == [0, 0]
    for index in (0, 1):
        weights, seen = saved(two / f"rank-{index}.pt")
        assert seen == rows
        assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())


def test_two_ranks_of_two_micro_batches_differ_by_rounding_alone(tmp_path: Path) -> None:
    """((g0 + g1) + g2) + g3 against (g0 + g1) + (g2 + g3): each sum of four is off by at most 3 roundings of 2^-24.

    A gradient thus differs by 6e-8 times its terms, a loss, a sum of four means, by 4e-7 of itself. AdamW divides the
    gradient by its own size: where terms cancel down to rounding, a step of its length (at most the learning rate)
    may turn round, and no bound below 2 x the sum of learning rates holds for every single weight. Such weights are
    few: 99.9% must be within 1e-4 of that sum.
    """
    settings = replace(FOUR, accumulate=4)
    student, rows = train(tmp_path / "one", settings)
    (two := tmp_path / "two").mkdir()
    assert train_together(two, settings) == [0, 0]
    weights, seen = saved(two / "rank-0.pt")
    longest = sum(float(row["learning_rate"] or 0) for row in rows)
    apart = torch.cat([(v - weights[k]).abs().flatten() for k, v in student.state_dict().items()])
    print(f"largest {apart.max():.3g}, 99.9% within {apart.quantile(0.999):.3g}, sum of learning rates {longest:.3g}")
    assert apart.max() <= 2 * longest and apart.quantile(0.999) <= 1e-4 * longest
    for a, b in zip(rows, seen, strict=True):
        assert b["total"] == pytest.approx(a["total"], rel=1e-4)  # of weights that have come apart
    assert seen[0]["total"] == pytest.approx(rows[0]["total"], rel=4e-7)


def test_a_rank_killed_in_the_middle_the_restarted_two_end_where_the_uninterrupted_do(tmp_path: Path) -> None:
    student, _ = train(tmp_path / "one", FOUR)
    (two := tmp_path / "two").mkdir()
    started = time.monotonic()
    assert train_together(two, FOUR, dies_at=2) == [1, -signal.SIGKILL]  # the survivor hears of it, and fails
    assert time.monotonic() - started < 60
    assert list(two.glob("checkpoint-*.pt")) and not list(two.glob("rank-*"))
    assert train_together(two, FOUR) == [0, 0]
    weights, rows = saved(two / "rank-1.pt")
    assert len(rows) == FOUR.steps
    assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())


def test_ranks_that_see_other_checkpoints_refuse_to_go_on(tmp_path: Path) -> None:
    train(tmp_path / "0", replace(FOUR, steps=6))

    def body(us: Ranks) -> None:
        if us.main:
            train(tmp_path / "0", FOUR, ranks=us)
        else:
            with pytest.raises(LeanmotionError, match="share the folder LEANMOTION_SCRATCH"):
                train(tmp_path / "1", FOUR, ranks=us)

    assert together(body) == [0, 0]


def test_a_batch_that_does_not_divide_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(LeanmotionError, match=r"distillation.batch is 4: make it a multiple of 6.* on 3 processes"):
        train(tmp_path, FOUR, ranks=Ranks(0, 3))
