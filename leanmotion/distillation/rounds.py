"""One round: delete the next blocks from the previous round's student, then distil what is left from the teacher."""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from leanmotion.distillation.budget import steps_for
from leanmotion.distillation.caption_states import CaptionEncoder
from leanmotion.distillation.checkpoints import CheckpointStore
from leanmotion.distillation.clip_source import ClipSource
from leanmotion.distillation.distillation_settings import DistillationSettings
from leanmotion.distillation.kept_rounds import KeptRounds
from leanmotion.distillation.lanes import Lanes
from leanmotion.distillation.losses import noised
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.teacher_clips import TeacherClips
from leanmotion.distillation.trainable import trained_patterns
from leanmotion.distillation.training import distil
from leanmotion.errors import LeanmotionError
from leanmotion.model.memory import recomputed
from leanmotion.model.pruned_adapter import apply_pruned, save_pruned
from leanmotion.model.removal import remove_units, removed_units
from leanmotion.model.sampler import make_scheduler
from leanmotion.model.samplers import Networks
from leanmotion.model.sampling_address import sampling_address
from leanmotion.model.student import RoundPlan, Student, network_digest
from leanmotion.model.units import list_units
from leanmotion.pipeline.code_address import code_address, library_versions
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.processes import device, ranks
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.setting_address import added, addressed
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import read_table, table_digest, write_table

if TYPE_CHECKING:
    from diffusers import UNetMotionModel

_LOSSES = "losses.parquet"


def run_round(
    settings: Settings, plan: RoundPlan, samplers: Networks, clips: Path, out: Path, *, keep: bool = True
) -> list[dict[str, Any]]:
    """Delete and distil; writes the student's folder (adapter, losses, `student.json`) and returns the loss rows.

    A round of the same address that was kept is put back instead, whatever of the code or the settings has changed.

    Args:
        settings: All settings.
        plan: What is deleted, from which student.
        samplers: The teacher's networks.
        clips: The `clips` table.
        out: The student's folder.
        keep: Whether to keep the finished round in scratch; the caller may keep `out` itself.

    Raises:
        LeanmotionError: Clips of another shape than the teacher draws, or divergence.
    """
    together, kept = ranks(), KeptRounds()
    address = round_address(settings, plan, samplers, clips)
    checkpoints = scratch_folder() / "distil" / plan.name
    # A clip stage that ended needs its parts no more.
    shutil.rmtree(scratch_folder() / "clips", ignore_errors=True)
    if together.agree(together.main and kept.take(plan.name, address, out)):
        together.dismiss()
        # Of a process that was killed when it had kept the round.
        CheckpointStore(checkpoints, address).path.unlink(missing_ok=True)
        return read_table(out / _LOSSES, "losses").to_pylist()
    rows = train_round(settings, plan, samplers, clips, out, checkpoints, address)
    if keep:
        kept.keep(plan.name, address, out)
    # Not before: DVC may be killed when it has not yet recorded this round.
    shutil.rmtree(checkpoints, ignore_errors=True)
    return rows


def round_address(settings: Settings, plan: RoundPlan, samplers: Networks, clips: Path) -> str:
    """SHA-256 of all that a round's student depends on, known before anything is loaded."""
    how = addressed(settings.distillation)
    del how["checkpoint_every"]  # no part of the result
    if not by_harm(settings, plan):
        how.pop("budget", None)
    what = {
        "round": plan.name,
        "removed": plan.removed,
        "previous": [plan.previous.weights, plan.previous.removed, plan.previous.steps],
        "teacher": [samplers.record.sha256, samplers.record.dtype],
        "clips": table_digest(clips, "clips"),
        "distillation": {**how, "steps": None if by_harm(settings, plan) else how_trained(settings, plan.steps).steps},
        "sampling": sampling_address(settings.sampling),
        "negative": settings.prompts.negative,
        "code": code_address(*TRAINING),
        "libraries": library_versions(),
    }
    return values_digest(what)


def teacher_clips_address(settings: Settings, samplers: Networks, clips: Path) -> str:
    """SHA-256 of all that the clips depend on which the teacher draws to train and to judge students of all rounds."""
    how = settings.distillation
    what = {
        "teacher": [samplers.record.sha256, samplers.record.dtype],
        "clips": table_digest(clips, "clips"),
        "together": settings.sampling.chunk,
        "precision": how.precision,
        "seed": how.seed,
        "sampling": sampling_address(settings.sampling),
        "negative": settings.prompts.negative,
        "code": code_address(TeacherClips, Drawing, Lanes, CaptionEncoder, Networks),
        "libraries": library_versions(),
    }
    return values_digest(what)


def train_round(
    settings: Settings, plan: RoundPlan, samplers: Networks, clips: Path, out: Path, checkpoints: Path, address: str
) -> list[dict[str, Any]]:
    """What `run_round` does where nothing was kept. Of many ranks the main one alone writes, and returns.

    Args:
        settings: As `run_round` has them, and so on.
        plan: What is deleted, from which student.
        samplers: The teacher's networks.
        clips: The `clips` table.
        out: The student's folder.
        checkpoints: A folder of this round alone; a killed training goes on from what it finds there.
        address: The round's.

    Raises:
        LeanmotionError: Clips of another shape than the teacher draws, or divergence.
    """
    import diffusers

    pipeline = samplers.pipeline.to(device())
    teacher = pipeline.unet.eval().requires_grad_(False)
    if added(settings.sampling.torch_compile):
        from leanmotion.model.compiling import compile_modules

        compile_modules(teacher)
    student = prune(student_unet(samplers, plan.previous), plan)
    validation: dict[str, float] = {}

    def note(before: float, after: float) -> None:
        validation.update(distance_before=before, distance_after=after)

    budgeted = by_harm(settings, plan)
    together, how, told = ranks(), how_trained(settings, plan.steps), _Told(plan.name)
    with _named(plan.name), closing(told), recomputed(student):
        rows = distil(
            student.to(device()),  # pyright: ignore[reportArgumentType]
            teacher,
            # The sampler's betas, which may be others than the base's: networks know its noise by them.
            diffusers.DDPMScheduler.from_config(make_scheduler(pipeline.scheduler, settings.sampling.scheduler).config),
            ClipSource(clips),
            how,
            encode=CaptionEncoder(pipeline.tokenizer, pipeline.text_encoder),
            checkpoint_dir=checkpoints,
            progress=lambda row: told.steps.update(1),
            ranks=together,
            drawing=drawing_of(settings, pipeline.scheduler),
            validated=note,
            address=address,
            teacher_clips=scratch_folder() / "teacher-clips" / teacher_clips_address(settings, samplers, clips),
            budget=partial(steps_for, settings.distillation.budget, plan.previous.steps) if budgeted else None,
            planned=told.planned,
            drawn=told.drawn,
        )
    together.dismiss()
    evidence = {"teacher_sha256": samplers.record.sha256, "round": plan.name, "steps": len(rows), **validation}
    save_pruned(student, out / "adapter", evidence=evidence)
    write_table(out / _LOSSES, "losses", rows)
    weights, behind = network_digest(out / "adapter"), plan.previous.steps + len(rows)
    Student(out, plan.name, weights, plan.removed, behind).write()
    return rows


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors inside say which round they stopped."""
    try:
        yield
    except LeanmotionError as error:
        raise LeanmotionError(f"round {name}: {error}") from error


def student_unet(samplers: Networks, student: Student) -> "UNetMotionModel":
    """A UNet of its own with a student's weights; the teacher's for `base`."""
    from diffusers import UNetMotionModel

    from leanmotion.model.teacher import load_motion_adapter

    if student.is_teacher:
        if added(samplers.settings.teacher.motion_norm == "frame"):
            from leanmotion.model.teacher import load_pipeline

            return load_pipeline(samplers.settings.teacher, samplers.base).unet.float()  # pyright: ignore[reportReturnType]
        return UNetMotionModel.from_unet2d(samplers.base.unet, load_motion_adapter(samplers.settings.teacher)).float()  # pyright: ignore[reportAttributeAccessIssue]
    student.verify()
    return apply_pruned(samplers.base.unet, student.adapter).float()


def prune(unet: "UNetMotionModel", plan: RoundPlan) -> "UNetMotionModel":
    """Remove what this round deletes beyond what is gone already, in place."""
    gone = set(removed_units(unet))
    remove_units(unet, [block for block in plan.removed if block not in gone])
    return unet


def check_training(settings: Settings, scheduler: Any, model: nn.Module) -> None:
    """Refuse, before any work, what the training of a round would stop at.

    Args:
        settings: All settings.
        scheduler: The base's.
        model: The whole motion adapter, or a UNet with it.

    Raises:
        LeanmotionError: Settings that do not go together, a part of the model that there is not, a scheduler that
            validation or trajectories cannot draw with, or a kind of prediction that there is no target for.
    """
    import diffusers

    for name in settings.rounds:
        how_trained(settings, settings.steps_of(name))
    trained_patterns(settings.distillation.trainable, list_units(model))
    drawing_of(settings, scheduler)
    noising: Any = diffusers.DDPMScheduler.from_config(scheduler.config)
    nothing = torch.zeros(1, 1, 1, 1, 1)
    noised(nothing, nothing, nothing.flatten(), noising.config.prediction_type)


def drawing_of(settings: Settings, scheduler: Any) -> Drawing | None:
    """The sampler of the settings, if distillation draws at all."""
    sampling, how = settings.sampling, settings.distillation
    plain = (how.objective, how.inputs, how.timesteps, how.validation) == ("steps", "clips", "all", 0)
    if plain:
        return None
    made = make_scheduler(scheduler, sampling.scheduler)
    negative = settings.prompts.negative if sampling.guidance > 1 else ""
    return Drawing(made, sampling.steps, sampling.guidance, negative, sampling.chunk)


def by_harm(settings: Settings, plan: RoundPlan) -> bool:
    """Whether what the round's deletion has harmed decides its steps."""
    return plan.steps is None and settings.distillation.budget.total > 0


def how_trained(settings: Settings, steps: int | None = None) -> DistillationSettings:
    """The library's settings from those of params.yaml, same names, with a round's own steps."""
    values = settings.distillation.model_dump(exclude={"budget"})
    if steps is not None:
        values["steps"] = steps
    if isinstance(values["trainable"], list):
        values["trainable"] = tuple(values["trainable"])
    return DistillationSettings(**values)


class _Told:
    """A bar for the clips that the teacher draws, and one for the steps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clips = self.steps = Progress(f"distil {name}: the teacher draws", 0, "clip")

    def planned(self, steps: int) -> None:
        self.steps = Progress(f"distil {self.name}", steps, "step")

    def drawn(self, clips: int) -> None:
        self.clips.update(clips)

    def close(self) -> None:
        self.clips.close()
        self.steps.close()


TRAINING = (train_round, Networks)
"""What makes a round's student. All code that these reach is part of a round's address."""
