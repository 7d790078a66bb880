"""Where a round's time goes: the share of teacher and student, forward and backward, in the wall time of its training.

Run in the project's folder after `dvc repro`: `python benchmarks/distillation_profile.py --round r14`. What is timed is
the whole of `leanmotion.distillation.training.distil`: clips and captions, passes, clipping, AdamW, moving average,
checkpoints with their fsync, validation. Imports, loading of weights and saving of the student lie outside: they are
printed apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = time.perf_counter()


@contextmanager
def timed(teacher: Any, student: Any) -> Iterator[dict[str, float]]:
    """Seconds of both networks' forward passes and of backward, on the CPU or after the device is done."""
    import torch

    seconds: dict[str, float] = defaultdict(float)
    began: dict[str, float] = {}

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    handles = []
    for name, network in (("teacher forward", teacher), ("student forward", student)):

        def before(*_: Any, name: str = name) -> None:
            began[name] = now()

        def after(*_: Any, name: str = name) -> None:
            seconds[name] += now() - began[name]

        handles += [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    real = torch.Tensor.backward

    def backward(self: Any, *args: Any, **kwargs: Any) -> None:
        start = now()
        real(self, *args, **kwargs)
        seconds["backward"] += now() - start

    torch.Tensor.backward = backward
    try:
        yield seconds
    finally:
        torch.Tensor.backward = real
        for handle in handles:
            handle.remove()


def main() -> None:
    """Print a table of parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round", required=True, help="whose blocks are deleted, from the teacher")
    parser.add_argument("--steps", type=int, help="of training; else the setting")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the flow's folder")
    parser.add_argument("--order", type=Path, help="a deletion list; else the round's own in data/order")
    arguments = parser.parse_args()

    import diffusers

    from leanmotion.distillation.caption_states import CaptionEncoder
    from leanmotion.distillation.clip_source import ClipSource
    from leanmotion.distillation.rounds import distillation_settings, drawing_of, prune, student_unet
    from leanmotion.distillation.training import distil
    from leanmotion.model.samplers import Samplers
    from leanmotion.model.student import RoundPlan, Student
    from leanmotion.model.teacher import TeacherRecord
    from leanmotion.pipeline.processes import device
    from leanmotion.pipeline.scratch import scratch_folder
    from leanmotion.pipeline.settings import load_settings

    settings, data = load_settings(), arguments.data
    order = arguments.order or data / f"order/{arguments.round}.json"
    removed = tuple(json.loads(order.read_text(encoding="utf-8"))["removed"])
    samplers = Samplers(settings, TeacherRecord.read(data / "teacher.json"))
    pipeline = samplers.pipeline.to(device())
    base = Student(data / "students/base", "base", samplers.record.sha256, ())
    teacher = pipeline.unet.eval().requires_grad_(False)
    student: Any = prune(student_unet(samplers, base), RoundPlan("profile", base, removed)).to(device())  # pyright: ignore
    how = distillation_settings(settings, arguments.steps or settings.steps_of(arguments.round))
    scratch = scratch_folder() / "distil" / "profile"
    shutil.rmtree(scratch, ignore_errors=True)
    before = time.perf_counter() - START
    with timed(teacher, student) as seconds:
        start = time.perf_counter()
        distil(
            student, teacher, diffusers.DDPMScheduler.from_config(pipeline.scheduler.config),
            ClipSource(data / "clips.parquet"), how, encode=CaptionEncoder(pipeline.tokenizer, pipeline.text_encoder),
            checkpoint_dir=scratch, drawing=drawing_of(settings, pipeline.scheduler),
        )  # fmt: skip
        whole = time.perf_counter() - start
    shutil.rmtree(scratch)
    print(f"{len(removed)} blocks deleted, {how.steps} steps of {how.batch} clips, inputs {how.inputs}, {device()}")
    print("| part | seconds | share |\n|---|---|---|")
    passes = sum(seconds.values())
    for name, value in [*seconds.items(), ("all passes", passes), ("the rest", whole - passes), ("training", whole)]:
        print(f"| {name} | {value:.2f} | {value / whole:.1%} |")
    print(f"Before it, imports and weights: {before:.1f} s.")


if __name__ == "__main__":
    main()
