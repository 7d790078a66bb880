"""The training loop of a student: resumable after a kill at any moment, bit for bit on one machine's CPU.

Everything random in a step (clips, timesteps, noise) is drawn from generators seeded by the settings' seed and the
position of the clip in the sequence of all clips: a checkpoint needs no generator state, all rounds see the same
clips and noise, and neither micro-batches nor processes change them. Trajectories that are under way are in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanmotion.distillation.checkpoints import CheckpointStore
from leanmotion.distillation.lanes import Lanes, side_by_side
from leanmotion.distillation.losses import TERMS, DistillationSettings
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.schedule import COLUMNS, LossRow, captions_of, diverged, ema_decay, learning_rate
from leanmotion.distillation.trainable import trained_parameters, training_mode
from leanmotion.distillation.training_inputs import CaptionedLatents, Clips, Encode, NoisedClips, Trajectories
from leanmotion.distillation.validation import drawn_distances
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.digests import tensor_bytes, values_digest, weights_digest
from leanmotion.pipeline.processes import Ranks


def distil(
    student: nn.Module,
    teacher: nn.Module,
    scheduler: Any,
    clips: Clips | tuple[Tensor, Sequence[str]],
    settings: DistillationSettings,
    *,
    encode: Encode,
    checkpoint_dir: Path | None = None,
    progress: Callable[[LossRow], None] | None = None,
    ranks: Ranks = Ranks(),
    drawing: Drawing | None = None,
    validated: Callable[[float, float], None] | None = None,
    address: str | None = None,
) -> list[LossRow]:
    """Distil: train the student in place, from the teacher; it ends with the moving average of its weights.

    BK-SDM's distillation (Kim et al. 2023, section 3.2, Equations 2 to 4; `leanmotion.distillation.losses`), with
    motion blocks in place of spatial ones. Only motion modules train.

    With `settings.validation` the weights before training come back where they draw clips closer to the teacher's:
    AdamW's steps are as long as the learning rate however small the gradient, and make a student worse that removal
    has hardly harmed; and a lower loss on inputs of training does not say that clips are closer.

    With a `checkpoint_dir` the caller saves the student, then removes that folder. Until then a call with the same
    models, clips, settings and code goes on from the last checkpoint, or returns at once from a finished one.

    Args:
        student: a `UNetMotionModel` in float32, with blocks removed.
        teacher: the whole `UNetMotionModel`, on the same device; it is not changed.
        scheduler: a diffusers scheduler: its `alphas_cumprod` and `prediction_type` are read.
        clips: what to train on: latents [clips, channels, frames, height, width] in float32 (`encode_clips`) and a
            caption each; or a source of them that need not be in memory, as `leanmotion.clips.ClipSource`.
        settings: how to train.
        encode: captions to the text encoder's states, caption by caption (see `CaptionEncoder`).
        checkpoint_dir: a folder of this training alone; none: nothing is kept, and a killed training is lost.
        progress: called with every loss row, after the step's checkpoint is written.
        ranks: the processes that run this call together, on the same models: each takes its share of every batch.
        drawing: the sampler; needed where inputs are trajectories, and for validation.
        validated: called with the `drawn_distances` of the weights before training and of the trained ones: squared
            differences of latents to the teacher's clips of the same noise, 0 for equal ones.
        address: tells this training from all others, where the caller knows without reading all weights; its
            checkpoints bear it.

    Returns:
        One row a step, of the keys in `COLUMNS` (`total` is what was differentiated, on that step's clips and noise);
        none if nothing is left to train.

    Raises:
        LeanmotionError: the loss is not finite or explodes; a checkpoint cannot be read or written, or not by all
            ranks alike; the batch cannot be divided; latents without a caption each, or not finite.
        ValueError: student and teacher share a parameter that trains (frozen ones may be shared); no `drawing`.
    """
    parameters = trained_parameters(student, settings.trainable, teacher)
    if not parameters or settings.steps == 0:
        return []
    fixed = {id(p) for p in teacher.parameters()}
    if shared := [name for name, p in parameters.items() if id(p) in fixed]:
        raise ValueError(f"the student trains parameters that are the teacher's own: {shared[0]}")
    # Micro-batches never exceed what params.yaml asks for; each rank takes as many of them as the others.
    if settings.batch % (shares := math.lcm(settings.accumulate, ranks.count)):
        raise LeanmotionError(
            f"params.yaml: distillation.batch is {settings.batch}: make it a multiple of {shares}, for "
            f"distillation.accumulate {settings.accumulate} on {ranks.count} processes, or launch fewer"
        )
    clips = CaptionedLatents(*clips) if isinstance(clips, tuple) else clips
    device = next(iter(parameters.values())).device
    with training_mode(student, teacher, parameters), side_by_side(device, settings.batch // shares) as lanes:
        run = _Run(student, teacher, scheduler, clips, settings, encode, parameters, ranks, drawing, lanes)
        store = None if checkpoint_dir is None else CheckpointStore(checkpoint_dir, address or run.address())
        if store is not None and (state := store.load()) is not None:
            run.restore(state)
        if ranks.agree(len(run.rows)) != len(run.rows):
            raise LeanmotionError(f"{checkpoint_dir}: ranks see other checkpoints: share the folder LEANMOTION_SCRATCH")
        for step in range(len(run.rows), settings.steps):
            row = run.step(step)
            if problem := diverged([*run.rows, row], settings.explode):
                raise LeanmotionError(
                    f"distillation diverged at step {step}: {problem}: lower distillation.learning_rate "
                    f"(last good checkpoint: {(store and store.last) or 'none'}; "
                    f"captions: {captions_of(clips, settings, step)})"
                )
            run.update(row)
            done = step + 1
            if store is not None and (done % settings.checkpoint_every == 0 or done == settings.steps):
                state = run.state()
                if ranks.main:
                    store.save(state)
                store.last = f"{store.path} after {done} steps"
            if progress is not None:
                progress(row)
        best = run.average
        if settings.validation:
            before, after = run.validate([run.initial, best])
            best = best if after < before else run.initial
            if validated is not None:
                validated(before, after)
        run.adopt(best)
    return run.rows


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
        ranks: Ranks,
        drawing: Drawing | None,
        lanes: Lanes,
    ) -> None:
        self.student, self.teacher, self.clips = student, teacher, clips
        self.settings, self.encode, self.ranks, self.drawing = settings, encode, ranks, drawing
        self.parameters, self.lanes = parameters, lanes
        self.device = next(iter(parameters.values())).device
        alphas: Tensor = scheduler.alphas_cumprod.to("cpu", torch.float32)
        prediction_type: str = scheduler.config.prediction_type
        # Micro-batches of all processes are one sequence; these are the places of the batch that each works on.
        self.shares = math.lcm(settings.accumulate, ranks.count)
        size, count = settings.batch // self.shares, self.shares // ranks.count
        own = range(ranks.index * count, (ranks.index + 1) * count)
        self.slots = [range(share * size, (share + 1) * size) for share in own]
        self.inputs: NoisedClips | Trajectories
        if settings.inputs == "clips":
            self.inputs = NoisedClips(clips, encode, settings, alphas, prediction_type, self.device)
        elif drawing is None:
            raise ValueError(f"distillation.inputs is {settings.inputs}: give the sampler as `drawing`")
        else:
            whose = lanes.drawing(student if settings.inputs == "student" else teacher, self.autocast)
            places = range(self.slots[0].start, self.slots[-1].stop)
            self.inputs = Trajectories(clips, encode, settings, drawing, whose, self.device, places, self.autocast)
        # No part of the checkpoint: after a kill the caller passes the same student again.
        self.initial = {name: p.detach().clone() for name, p in parameters.items()}
        self.average = {name: p.clone() for name, p in self.initial.items()}
        self.optimizer = torch.optim.AdamW(
            list(parameters.values()), lr=0.0, weight_decay=settings.weight_decay, foreach=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.rows: list[LossRow] = []
        self._noising = [hashlib.sha256(tensor_bytes(alphas)).hexdigest(), prediction_type]

    def address(self) -> str:
        """SHA-256 of all that this training depends on, read off the models themselves; before its first step."""
        what = {
            "settings": {k: v for k, v in asdict(self.settings).items() if k != "checkpoint_every"},
            "student": weights_digest(self.student),
            "teacher": weights_digest(self.teacher),
            "noising": self._noising,
            "drawing": self.drawing.digest if self.drawing else "",
            "clips": self.clips.digest,
            "encode": getattr(self.encode, "digest", ""),
            "code": code_address(distil, Drawing),
        }
        return values_digest(what)

    def step(self, step: int) -> LossRow:
        """Gradients of one step, clipped, and its loss row; the weights stay as they are."""
        settings = self.settings
        means = torch.zeros(len(TERMS), device=self.device)
        asked = dict.fromkeys(TERMS, False)
        factor = self.scaler.scale(torch.ones((), device=self.device)) / self.shares
        self.optimizer.zero_grad(set_to_none=True)
        for slots in self.slots:
            batch = self.inputs.batch(step, slots)
            result = self.lanes.backward(self.student, self.teacher, batch, settings.weights, self.autocast, factor)
            self.inputs.advance(step, slots, result)
            for i, name in enumerate(TERMS):
                if (raw := result.raw[name]) is not None:
                    asked[name] = True
                    means[i] += raw.detach() / self.shares
        self.ranks.add([means, *(p.grad for p in self.parameters.values() if p.grad is not None)])
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
        now = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)
        self.rows.append(row)

    def autocast(self) -> Any:
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.settings.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def state(self) -> dict[str, Any]:
        nan = float("nan")
        latents = self.inputs.state()
        if latents is not None:
            latents = self.ranks.gather(latents)
        return {
            "latents": latents,
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
        if (latents := state["latents"]) is not None:
            latents = latents[self.slots[0].start : self.slots[-1].stop]
        self.inputs.restore(latents)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for values in state["rows"].tolist():
            row: LossRow = {c: None if math.isnan(v) else v for c, v in zip(COLUMNS, values, strict=True)}
            self.rows.append(row | {"step": int(values[0])})

    def validate(self, candidates: Sequence[dict[str, Tensor]]) -> list[float]:
        """`drawn_distances` of the student with each of these weights, under noise that no training step has seen."""
        if self.drawing is None:
            raise ValueError("distillation.validation: give the sampler as `drawing`")
        how = self.settings
        # No trajectory gets that far: a place starts at most `steps` clips and the one that it starts with.
        first = (how.steps + 2) * how.batch
        return drawn_distances(
            self.lanes.drawing(self.student, self.autocast), self.lanes.drawing(self.teacher, self.autocast),
            [partial(self.adopt, weights) for weights in candidates],
            drawing=self.drawing, clips=self.clips, encode=self.encode, seed=how.seed,
            positions=range(first, first + how.validation), batch=len(self.slots[0]), device=self.device,
            autocast=self.autocast,
        )  # fmt: skip

    @torch.no_grad()
    def adopt(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
