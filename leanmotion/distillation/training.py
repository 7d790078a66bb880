"""The training loop of a student: resumable after a kill at any moment, bit for bit on one machine's CPU.

Everything random in a step (clips, timesteps, noise) is drawn from generators seeded by the settings' seed and the
position of the clip in the sequence of all clips: a checkpoint needs no generator state, all rounds see the same
clips and noise, and neither micro-batches nor processes change them. Trajectories that are under way are in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from leanmotion.distillation.checkpoints import CheckpointStore
from leanmotion.distillation.distillation_settings import DistillationSettings
from leanmotion.distillation.lanes import side_by_side
from leanmotion.distillation.objectives import objective_of
from leanmotion.distillation.run import Run
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.schedule import LossRow, diverged
from leanmotion.distillation.setup import Setup, shares_of
from leanmotion.distillation.teacher_clips import TeacherClips
from leanmotion.distillation.trainable import trained_parameters, training_mode
from leanmotion.distillation.training_inputs import CaptionedLatents, Clips, Encode
from leanmotion.distillation.validation import drawn_distance
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
    teacher_clips: Path | None = None,
    budget: Callable[[float], int] | None = None,
    planned: Callable[[int], None] = lambda steps: None,
    drawn: Callable[[int], None] = lambda clips: None,
) -> list[LossRow]:
    """Distil: train the student in place, from the teacher; it ends with the moving average of its weights.

    BK-SDM's distillation (Kim et al. 2023, section 3.2, Equations 2 to 4; `leanmotion.distillation.losses`), with
    motion blocks in place of spatial ones, or that of end points (`leanmotion.distillation.end_points`). Only motion
    modules train.

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
        progress: called with every loss row; the step's checkpoint may still be in writing.
        ranks: the processes that run this call together, on the same models: each takes its share of every batch.
        drawing: the sampler; needed for all but noised clips at any timestep without validation.
        validated: called with the `drawn_distance` of the weights before training and of the trained ones: squared
            differences of latents to the teacher's clips of the same noise, 0 for equal ones.
        address: tells this training from all others, where the caller knows without reading all weights; its
            checkpoints bear it.
        teacher_clips: a folder for the clips that the teacher draws, of all trainings that share teacher, sampler,
            clips, seed, chunk and precision; none: one beside the checkpoints, of this training alone.
        budget: the number of steps by the distance before training, in place of `settings.steps`; needs validation.
        planned: told the number of steps before the first of them.
        drawn: told how many clips the teacher has drawn, after each part of them.

    Returns:
        One row a step, of the keys in `COLUMNS` (`total` is what was differentiated, on that step's clips and noise);
        none if nothing is left to train.

    Raises:
        LeanmotionError: the loss is not finite or explodes; a checkpoint cannot be read or written, or not by all
            ranks alike; the batch cannot be divided; latents without a caption each, or not finite.
        ValueError: student and teacher share a parameter that trains (frozen ones may be shared); no `drawing`.
    """
    parameters = trained_parameters(student, settings.trainable, teacher)
    if not parameters or (settings.steps == 0 and budget is None):
        return []
    fixed = {id(p) for p in teacher.parameters()}
    if shared := [name for name, p in parameters.items() if id(p) in fixed]:
        raise ValueError(f"the student trains parameters that are the teacher's own: {shared[0]}")
    clips = CaptionedLatents(*clips) if isinstance(clips, tuple) else clips
    device, micro = next(iter(parameters.values())).device, settings.batch // shares_of(settings, ranks)
    with training_mode(student, teacher, parameters), side_by_side(device, micro) as lanes, ExitStack() as ends:
        setup = Setup(student, teacher, scheduler, clips, settings, encode, parameters, ranks, drawing, lanes)
        store, state = None, None
        if checkpoint_dir is not None:
            store = CheckpointStore(checkpoint_dir, address or training_address(setup))
            state = store.load()
            ends.callback(store.close)
            teacher_clips = teacher_clips or checkpoint_dir / f"teacher-{store.address[:16]}"
        end_points = TeacherClips(setup, range(settings.endpoint_clips), teacher_clips, drawn)
        # Others than those to train on.
        held_out = range(settings.endpoint_clips, settings.endpoint_clips + settings.validation)
        reference = TeacherClips(setup, held_out, teacher_clips, drawn)
        before, steps = None, settings.steps
        if state is not None:
            before, steps = state["before"], state["steps"]
        elif settings.validation:
            before = _distance(setup, reference)
        if state is None and budget is not None:
            steps = ranks.agree(budget(_measured(before)))
        run = Run(replace(setup, settings=replace(settings, steps=steps)), objective_of(setup, end_points))
        if state is not None:
            run.restore(state)
        if ranks.agree(run.done) != run.done:
            raise LeanmotionError(f"{checkpoint_dir}: ranks see other checkpoints: share the folder LEANMOTION_SCRATCH")
        planned(steps)
        if run.done < steps:
            run.objective.prepare()
        while run.done < steps:
            row = run.step()
            if problem := diverged([*run.rows, row], settings.explode):
                if store is not None:
                    store.wait()  # what is named below is there
                raise LeanmotionError(
                    f"distillation diverged at step {run.done}: {problem}: lower distillation.learning_rate "
                    f"(last good checkpoint: {(store and store.last) or 'none'}; "
                    f"captions: {_listed(run.objective.captions(run.done))})"
                )
            run.update(row)
            if store is not None and (run.done % settings.checkpoint_every == 0 or run.done == steps):
                state = run.state() | {"before": before, "steps": steps}
                if ranks.main:
                    store.save_beside(state)
                store.last = f"{store.path} after {run.done} steps"
            if progress is not None:
                progress(row)
        if store is not None:
            store.wait()
        run.adopt(run.average)
        if before is not None:
            after = _distance(setup, reference) if run.done else before
            if not after < before:
                run.adopt(run.initial)
            if validated is not None:
                validated(before, after)
    return run.rows


def training_address(setup: Setup) -> str:
    """SHA-256 of all that a training depends on, read off the models themselves; before its first step."""
    what = {
        "settings": {k: v for k, v in asdict(setup.settings).items() if k != "checkpoint_every"},
        "student": weights_digest(setup.student),
        "teacher": weights_digest(setup.teacher),
        "noising": [hashlib.sha256(tensor_bytes(setup.alphas)).hexdigest(), setup.prediction_type],
        "drawing": setup.sampler.digest if setup.sampler else "",
        "clips": setup.clips.digest,
        "encode": getattr(setup.encode, "digest", ""),
        "code": code_address(distil, Drawing),
    }
    return values_digest(what)


def _distance(setup: Setup, reference: TeacherClips) -> float:
    """`drawn_distance`. A comparison with NaN is false: it would quietly keep the untrained weights."""
    if not math.isfinite(found := drawn_distance(setup, reference)):
        raise LeanmotionError(f"validation distance is {found}: check the weights")
    return found


def _measured(before: float | None) -> float:
    if before is None:
        raise ValueError("a budget goes by the distance before training: set distillation.validation")
    return before


def _listed(captions: Sequence[str]) -> str:
    """The first words of each caption: what the clips of a step show, to name them where it fails."""
    return ", ".join(repr(caption[:40]) for caption in dict.fromkeys(captions))
