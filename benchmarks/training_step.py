"""A step of distillation at whatever size: its time, its memory, and how long a checkpoint holds it up."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from leanmotion.distillation.checkpoints import CheckpointStore
from leanmotion.distillation.losses import Batch, LossWeights, comparison
from leanmotion.distillation.trainable import trained_parameters, training_mode
from leanmotion.model.memory import CHECKPOINTING, recomputed
from leanmotion.model.removal import remove_units
from leanmotion.model.units import block_ids
from leanmotion.pipeline.settings import Settings

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def training_rows(
    teacher: Any,
    size: Any,
    settings: Settings,
    device: str,
    folder: Path,
    seconds: Callable[[Callable[[], Any], int, int], float],
) -> Iterator[tuple[str, float, str]]:
    """Every second block is gone from the student; batches of 1, 2 and 4 clips.

    Args:
        teacher: the UNet.
        size: of latents: frames, height, width.
        settings: of distillation: weights of terms, precision.
        device: where networks are.
        folder: for a checkpoint.
        seconds: median seconds of a function's repeats, after some to warm up.
    """
    student = remove_units(copy.deepcopy(teacher).float(), block_ids(teacher)[::2])
    parameters = trained_parameters(student, "motion", teacher)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-5)
    how = settings.distillation
    weights = LossWeights(how.task_weight, how.output_weight, how.feature_weight)
    gpu, kept = device.startswith("cuda"), os.environ.get(CHECKPOINTING)

    def autocast() -> Any:
        dtype = _PRECISIONS.get(how.precision)
        return nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype, cache_enabled=False)

    def step(batch: int) -> None:
        text = teacher.config.cross_attention_dim
        noisy = torch.randn(batch, teacher.config.in_channels, *size.values(), device=device)
        states = torch.randn(batch * size["frames"], 77, text, device=device)
        asked = Batch(noisy, noisy, torch.full((batch,), 500, device=device), states)
        with comparison(student, teacher, weights, autocast) as compare:
            compare(asked).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    try:
        for again in ("0", "1"):
            os.environ[CHECKPOINTING] = again
            name = "recomputed" if again == "1" else "kept"
            for batch in (1, 2, 4) if gpu else (1,):
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                try:
                    with training_mode(student, teacher, parameters), recomputed(student):
                        took = seconds(lambda batch=batch: step(batch), 3, 2) / batch
                except torch.OutOfMemoryError:
                    yield f"training step, activations {name}, batch {batch}: out of memory", float("nan"), ""
                    continue
                yield f"training step, activations {name}, batch {batch}", took, "s a clip"
                if gpu:
                    peak = torch.cuda.max_memory_allocated() / 2**30
                    yield f"memory, activations {name}, batch {batch}", peak, "GiB"
    finally:
        os.environ.pop(CHECKPOINTING) if kept is None else os.environ.update({CHECKPOINTING: kept})
    yield from _checkpoint(parameters, optimizer, folder)


def _checkpoint(
    parameters: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, folder: Path
) -> Iterator[tuple[str, float, str]]:
    store = CheckpointStore(folder / "checkpoints", "0" * 64)
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    state = {"weights": weights, "average": weights, "optimizer": optimizer.state_dict(), "rows": torch.zeros(0, 1)}
    start = time.perf_counter()
    store.save_beside(state)
    yield "a checkpoint holds the step for", time.perf_counter() - start, "s"
    store.wait()
    yield "a checkpoint is written after", time.perf_counter() - start, "s"
    yield "a checkpoint's size", store.path.stat().st_size / 2**30, "GiB"
    store.close()
