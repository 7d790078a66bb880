"""Where a round's time goes: the share of teacher and student, forward and backward, in the wall time of its training.

Run in the project's folder after `dvc repro`: `python benchmarks/distillation_profile.py --round r14`. Without a round
it needs no `dvc repro`: it renders clips of its own, and deletes the middle blocks of the UNet. What is timed is the
whole of `leanmotion.distillation.training.distil`: clips and captions, passes, clipping, AdamW, moving average,
checkpoints with their fsync, validation. Imports, loading of weights and saving of the student lie outside: they are
printed apart. Of passes that run side by side, the mean over their threads counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import get_ident
from typing import Any

START = time.perf_counter()


@contextmanager
def timed(teacher: Any, student: Any) -> Iterator[Callable[[], dict[str, float]]]:
    """Seconds of both networks' forward passes and of backward, on the CPU or after the device is done."""
    import torch

    spans: list[tuple[str, float]] = []
    began: dict[tuple[str, int], float] = {}
    threads: set[int] = set()

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(name: str) -> None:
        threads.add(get_ident())
        began[name, get_ident()] = now()

    def stop(name: str) -> None:
        spans.append((name, now() - began[name, get_ident()]))

    def spanning(backward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            start("backward")
            found = backward(*args, **kwargs)
            stop("backward")
            return found

        return run

    def seconds() -> dict[str, float]:
        return {
            name: sum(took for this, took in spans if this == name) / len(threads)
            for name in ("teacher forward", "student forward", "backward")
        }

    handles = []
    for name, network in (("teacher forward", teacher), ("student forward", student)):
        handles.append(network.register_forward_pre_hook(lambda *_, name=name: start(name)))
        handles.append(network.register_forward_hook(lambda *_, name=name: stop(name)))
    real = torch.Tensor.backward, torch.autograd.grad
    torch.Tensor.backward, torch.autograd.grad = map(spanning, real)
    try:
        yield seconds
    finally:
        torch.Tensor.backward, torch.autograd.grad = real
        for handle in handles:
            handle.remove()


def from_flow(settings: Any, arguments: argparse.Namespace) -> tuple[Any, Path, list[str]]:
    """Samplers, clips and deletion list of a finished flow."""
    from leanmotion.model.samplers import Samplers
    from leanmotion.model.teacher import TeacherRecord

    order = arguments.order or arguments.data / f"order/{arguments.round}.json"
    removed = json.loads(order.read_text(encoding="utf-8"))["removed"]
    samplers = Samplers(settings, TeacherRecord.read(arguments.data / "teacher.json"))
    return samplers, arguments.data / "clips.parquet", removed


def from_teacher(settings: Any, folder: Path) -> tuple[Any, Path, list[str]]:
    """The same of the teacher alone: 64 clips of sprites, and half of the blocks, those in the middle."""
    from leanmotion.clips.sources import write_clips_of
    from leanmotion.cost.inspection import inspect_teacher
    from leanmotion.model.samplers import Samplers

    few = settings.clips.model_copy(update={"source": "sprites", "count": 64})
    settings = settings.model_copy(update={"clips": few})
    samplers = Samplers(settings, inspect_teacher(settings)[0])
    write_clips_of(settings, samplers, folder / "clips.parquet")
    blocks = settings.teacher.blocks
    quarter = len(blocks) // 4
    return samplers, folder / "clips.parquet", blocks[quarter : len(blocks) - quarter]


def main() -> None:
    """Print a table of parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round", help="whose blocks are deleted, from the teacher")
    parser.add_argument("--steps", type=int, help="of training; else the setting, or 20 without a round")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the flow's folder")
    parser.add_argument("--order", type=Path, help="a deletion list; else the round's own in data/order")
    parser.add_argument("--wait", action="store_true", help="say `ready`, and train once standard input ends")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        profile(arguments, Path(folder))


def profile(arguments: argparse.Namespace, folder: Path) -> None:
    """Train and time; the folder takes what is made on the way."""
    import diffusers

    from leanmotion.distillation.caption_states import CaptionEncoder
    from leanmotion.distillation.clip_source import ClipSource
    from leanmotion.distillation.rounds import drawing_of, how_trained, prune, student_unet
    from leanmotion.distillation.training import distil
    from leanmotion.model.student import RoundPlan, Student
    from leanmotion.pipeline.processes import device
    from leanmotion.pipeline.settings import load_settings

    settings = load_settings()
    samplers, clips, removed = from_flow(settings, arguments) if arguments.round else from_teacher(settings, folder)
    pipeline = samplers.pipeline.to(device())
    base = Student(folder, "base", samplers.record.sha256, ())
    teacher = pipeline.unet.eval().requires_grad_(False)
    steps = arguments.steps or (settings.steps_of(arguments.round) if arguments.round else None) or 20
    plan = RoundPlan("profile", base, tuple(removed), steps)
    student: Any = prune(student_unet(samplers, base), plan).to(device())  # pyright: ignore
    how = how_trained(settings, plan.steps)
    before = time.perf_counter() - START
    if arguments.wait:
        print("ready", flush=True)
        sys.stdin.read()
    with timed(teacher, student) as seconds:
        start = time.perf_counter()
        distil(
            student, teacher, diffusers.DDPMScheduler.from_config(pipeline.scheduler.config),
            ClipSource(clips), how, encode=CaptionEncoder(pipeline.tokenizer, pipeline.text_encoder),
            checkpoint_dir=folder / "checkpoint", drawing=drawing_of(settings, pipeline.scheduler),
        )  # fmt: skip
        whole = time.perf_counter() - start
    print(f"{len(removed)} blocks deleted, {how.steps} steps of {how.batch} clips, inputs {how.inputs}, {device()}")
    print("| part | seconds | share |\n|---|---|---|")
    parts = seconds()
    passes = sum(parts.values())
    for name, value in [*parts.items(), ("all passes", passes), ("the rest", whole - passes), ("training", whole)]:
        print(f"| {name} | {value:.2f} | {value / whole:.1%} |")
    print(f"Before it, imports and weights: {before:.1f} s.")


if __name__ == "__main__":
    main()
