"""The training loop of a student: resumable after a kill at any moment, bit for bit on one machine's CPU.

Everything random in a step (clips, timesteps, noise) is drawn from generators seeded by the settings' seed and the
position of the clip in the sequence of all clips: a checkpoint needs no generator state, all rounds see the same
clips and noise, and neither micro-batches nor processes change them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leanmotion.checkpoints import CheckpointStore, fingerprint, tensor_bytes, weights_digest
from leanmotion.distillation import (
    TERMS,
    Batch,
    DistillationSettings,
    losses,
    noised,
    trained_parameters,
)
from leanmotion.errors import LeanmotionError
from leanmotion.schedule import COLUMNS, LossRow, captions_of, diverged, draw, ema_decay, learning_rate

Encode = Callable[[list[str]], Float[Tensor, "batch tokens dim"]]


@runtime_checkable
class Clips(Protocol):
    """Where clips come from: `leanmotion.clips.ClipSource`, or anything that can do this."""

    @property
    def digest(self) -> str:
        """Tells two sets of clips apart."""
        ...

    def order(self, seed: int, start: int, count: int) -> list[int]:
        """Indices of the clips at positions `start` to `start + count` of an endless shuffled sequence."""
        ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Latents [batch channels frames height width] and captions."""
        ...


def distil(
    student: nn.Module,
    teacher: nn.Module,
    scheduler: Any,
    clips: Clips,
    settings: DistillationSettings,
    *,
    encode: Encode,
    checkpoint_dir: Path,
    progress: Callable[[LossRow], None] | None = None,
    accelerator: Any = None,
    validated: Callable[[float, float], None] | None = None,
) -> list[LossRow]:
    """Train the student in place; it ends with the moving average of its weights.

    With `settings.validation` the weights before training come back where they do better: AdamW's steps are as long
    as the learning rate however small the gradient, and make a student worse that removal has hardly harmed.

    The caller saves the student, then removes `checkpoint_dir`. Until then a call with the same models, clips and
    settings goes on from the last checkpoint, or returns at once from a finished one.

    Args:
        student: a `UNetMotionModel` in float32, with blocks removed.
        teacher: the whole `UNetMotionModel`, on the same device; it is not changed.
        scheduler: a diffusers scheduler: its `alphas_cumprod` and `prediction_type` are read.
        clips: what to train on.
        settings: how to train.
        encode: captions to the text encoder's states, caption by caption (see `CaptionEncoder`).
        checkpoint_dir: a folder of this training alone.
        progress: called with every loss row, after the step's checkpoint is written.
        accelerator: an `accelerate.Accelerator`, when several processes run this call on models already placed.
        validated: called with the validation losses of the weights before training and of the trained ones.

    Returns:
        One row a step, of the keys in `COLUMNS`; none if nothing is left to train.

    Raises:
        LeanmotionError: the loss is not finite or explodes; a checkpoint cannot be read or written; the batch
            cannot be divided over processes.
        ValueError: student and teacher share a parameter that trains (frozen ones may be shared).
    """
    parameters = trained_parameters(student, settings.trainable, teacher)
    if not parameters or settings.steps == 0:
        return []
    fixed = {id(p) for p in teacher.parameters()}
    if shared := [name for name, p in parameters.items() if id(p) in fixed]:
        raise ValueError(f"the student trains parameters that are the teacher's own: {shared[0]}")
    shares = settings.accumulate * (accelerator.num_processes if accelerator else 1)
    if settings.batch % shares:
        raise LeanmotionError(
            f"params.yaml: distillation.batch is {settings.batch}: make it a multiple of {shares} "
            "(accumulate times the number of processes)"
        )
    with _training_mode(student, teacher, parameters):
        run = _Run(student, teacher, scheduler, clips, settings, encode, parameters, accelerator)
        store = CheckpointStore(checkpoint_dir, run.fingerprint)
        if (state := store.load()) is not None:
            run.restore(state)
        for step in range(len(run.rows), settings.steps):
            row = run.step(step)
            if problem := diverged([*run.rows, row], settings.explode):
                raise LeanmotionError(
                    f"distillation diverged at step {step}: {problem}: lower distillation.learning_rate "
                    f"(last good checkpoint: {store.last or 'none'}; captions: {captions_of(clips, settings, step)})"
                )
            run.update(row)
            done = step + 1
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                if accelerator is None or accelerator.is_main_process:
                    store.save(run.state())
                store.last = f"{store.path} after {done} steps"
            if progress is not None:
                progress(row)
        best = run.average
        if settings.validation:
            before, after = run.validate(run.initial), run.validate(best)
            best = best if after < before else run.initial
            if validated is not None:
                validated(before, after)
        run.adopt(best)
    return run.rows


@contextmanager
def _training_mode(student: nn.Module, teacher: nn.Module, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Only the given parameters need gradients; both models in eval, as dropout would need a generator's state."""
    asked = {name: p.requires_grad for name, p in student.named_parameters()}
    modes = student.training, teacher.training
    student.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    student.eval()
    teacher.eval()
    try:
        yield
    finally:
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(asked[name])
            parameter.grad = None
        student.train(modes[0])
        teacher.train(modes[1])


class _Run:
    """The state of one training: weights, their average, optimiser, scaler and loss rows."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        scheduler: Any,
        clips: Clips,
        settings: DistillationSettings,
        encode: Encode,
        parameters: dict[str, nn.Parameter],
        accelerator: Any,
    ) -> None:
        self.student, self.teacher, self.clips = student, teacher, clips
        self.settings, self.encode, self.accelerator = settings, encode, accelerator
        self.parameters = parameters
        self.device = next(iter(parameters.values())).device
        self.alphas: Tensor = scheduler.alphas_cumprod.to("cpu", torch.float32)
        self.prediction_type: str = scheduler.config.prediction_type
        # No part of the checkpoint: after a kill the caller passes the same student again.
        self.initial = {name: p.detach().clone() for name, p in parameters.items()}
        self.average = {name: p.clone() for name, p in self.initial.items()}
        self.optimizer = torch.optim.AdamW(
            list(parameters.values()), lr=0.0, weight_decay=settings.weight_decay, foreach=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.rows: list[LossRow] = []
        how = {k: v for k, v in asdict(settings).items() if k != "checkpoint_every"}
        self.fingerprint = fingerprint(
            {
                "settings": how,
                "student": weights_digest(student),
                "teacher": weights_digest(teacher),
                "alphas": hashlib.sha256(tensor_bytes(self.alphas)).hexdigest(),
                "prediction_type": self.prediction_type,
                "clips": clips.digest,
                "encode": getattr(encode, "digest", ""),
            }
        )

    def step(self, step: int) -> LossRow:
        """Gradients of one step, clipped, and its loss row; the weights stay as they are."""
        settings, accelerator = self.settings, self.accelerator
        processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
        shares = settings.accumulate * processes
        count = settings.batch // shares
        means = torch.zeros(len(TERMS), device=self.device)
        asked = dict.fromkeys(TERMS, False)
        self.optimizer.zero_grad(set_to_none=True)
        for share in range(rank * settings.accumulate, (rank + 1) * settings.accumulate):
            batch = self.batch(step * settings.batch + share * count, count)
            result = losses(self.student, self.teacher, batch, settings.weights, self.autocast)
            self.scaler.scale(result.total / shares).backward()
            for i, name in enumerate(TERMS):
                if (raw := result.raw[name]) is not None:
                    asked[name] = True
                    means[i] += raw.detach() / shares
        if processes > 1:
            means = accelerator.reduce(means, reduction="sum")
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad = accelerator.reduce(parameter.grad, reduction="sum")
        # After the sum: an overflow of one process has to stop the step of all.
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip_norm, foreach=True))
        row: LossRow = {"step": step}
        terms = {name: v if asked[name] else None for name, v in zip(TERMS, means.tolist(), strict=True)}
        weighted = {
            name: weight * v if weight > 0 and (v := terms[name]) is not None else None
            for name, weight in zip(TERMS, settings.weights, strict=True)
        }
        row["total"] = sum(v for v in weighted.values() if v is not None)
        row |= terms | {f"{name}_weighted": v for name, v in weighted.items()}
        row["learning_rate"] = learning_rate(settings, step)
        row["gradient_norm"] = norm if math.isfinite(norm) or not self.scaler.is_enabled() else None
        return row

    def update(self, row: LossRow) -> None:
        """Step the optimiser on the gradients at hand, then the moving average."""
        for group in self.optimizer.param_groups:
            group["lr"] = row["learning_rate"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        decay = ema_decay(self.settings.ema, len(self.rows))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)
        self.rows.append(row)

    def batch(self, start: int, count: int) -> Batch:
        """Clips at positions `start` to `start + count` of the sequence, noised, with their captions."""
        seed = self.settings.seed
        latents, captions = self.clips.batch(self.clips.order(seed, start, count))
        shape = tuple(latents.shape[1:])
        drawn = [draw(seed, start + i, shape, len(self.alphas)) for i in range(count)]
        timesteps = torch.tensor([timestep for timestep, _, _ in drawn])
        noise = torch.stack([noise for _, _, noise in drawn])
        dropout = self.settings.caption_dropout
        said = ["" if u < dropout else caption for caption, (_, u, _) in zip(captions, drawn, strict=True)]
        noisy, target = noised(latents.float(), noise, self.alphas[timesteps], self.prediction_type)
        states = self.encode(said).to(self.device).repeat_interleave(shape[1], dim=0)
        return Batch(noisy.to(self.device), target.to(self.device), timesteps.to(self.device), states)

    def autocast(self) -> Any:
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.settings.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def state(self) -> dict[str, Any]:
        nan = float("nan")
        return {
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rows": torch.tensor(
                [[nan if row[c] is None else row[c] for c in COLUMNS] for row in self.rows], dtype=torch.float64
            ),
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["weights"][name])
                self.average[name].copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for values in state["rows"].tolist():
            row: LossRow = {c: None if math.isnan(v) else v for c, v in zip(COLUMNS, values, strict=True)}
            self.rows.append(row | {"step": int(values[0])})

    @torch.no_grad()
    def validate(self, weights: dict[str, Tensor]) -> float:
        """Mean weighted loss of these weights, which the student takes, over draws that no step has seen."""
        self.adopt(weights)
        how = self.settings
        batches = (self.batch((how.steps + i) * how.batch, how.batch) for i in range(how.validation))
        found = [losses(self.student, self.teacher, batch, how.weights, self.autocast).total for batch in batches]
        return float(torch.stack(found).mean())

    @torch.no_grad()
    def adopt(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
