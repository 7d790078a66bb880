"""One round: delete the next blocks from the previous round's student, then distil what is left from the teacher."""

import math
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanmotion.distillation.caption_states import CaptionEncoder
from leanmotion.distillation.clip_source import ClipSource
from leanmotion.distillation.losses import DistillationSettings
from leanmotion.distillation.sampler_steps import Drawing
from leanmotion.distillation.training import distil
from leanmotion.errors import LeanmotionError
from leanmotion.model.memory import recomputed
from leanmotion.model.pruned_adapter import apply_pruned, save_pruned
from leanmotion.model.removal import remove_units, removed_units
from leanmotion.model.sampler import make_scheduler
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import RoundPlan, Student
from leanmotion.pipeline.digests import file_sha256
from leanmotion.pipeline.processes import device, ranks
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import write_table, write_text

if TYPE_CHECKING:
    from diffusers import UNetMotionModel

_FINISHED = "finished"


def run_round(settings: Settings, plan: RoundPlan, samplers: Samplers, clips: Path, out: Path) -> list[dict[str, Any]]:
    """Delete and distil; writes the student's folder (adapter, losses, `student.json`) and returns the loss rows.

    Raises:
        LeanmotionError: Clips of another shape than the teacher draws, or divergence.
    """
    import diffusers

    pipeline = samplers.pipeline.to(device())
    teacher = pipeline.unet.eval().requires_grad_(False)
    student = prune(student_unet(samplers, plan.previous), plan)
    source = ClipSource(clips)
    scratch = scratch_folder() / "distil" / plan.name
    # A clip stage that ended needs its parts no more, nor a round that ended before this one its checkpoint.
    shutil.rmtree(scratch_folder() / "clips", ignore_errors=True)
    drop_finished(but=plan.name)
    validation: dict[str, float] = {}

    def note(before: float, after: float) -> None:
        if not (math.isfinite(before) and math.isfinite(after)):
            # A comparison with NaN is false: it would quietly keep the untrained weights.
            raise LeanmotionError(f"validation distance is {before} before training, {after} after: check the weights")
        validation.update(distance_before=before, distance_after=after)

    together, how = ranks(), distillation_settings(settings, plan.steps)
    progress = Progress(f"distil {plan.name}", how.steps, "step")
    with _named(plan.name), closing(progress), recomputed(student):
        rows = distil(
            student.to(device()),  # pyright: ignore[reportArgumentType]
            teacher,
            diffusers.DDPMScheduler.from_config(pipeline.scheduler.config),
            source,
            how,
            encode=CaptionEncoder(pipeline.tokenizer, pipeline.text_encoder),
            checkpoint_dir=scratch,
            progress=lambda row: progress.update(1),
            ranks=together,
            drawing=drawing_of(settings, pipeline.scheduler),
            validated=note,
        )
    together.dismiss()
    evidence = {"teacher_sha256": samplers.record.sha256, "round": plan.name, "steps": len(rows), **validation}
    save_pruned(student, out / "adapter", evidence=evidence)
    write_table(out / "losses.parquet", "losses", rows)
    Student(out, plan.name, file_sha256(out / "adapter" / "config.json"), plan.removed).write()
    # Only now, and the checkpoint stays until another round starts: DVC may be killed before it has recorded this one.
    write_text(scratch / _FINISHED, "")
    return rows


def drop_finished(*, but: str | None = None) -> None:
    """Remove the checkpoints of rounds that ended, but for the one named."""
    for marker in (scratch_folder() / "distil").glob(f"*/{_FINISHED}"):
        if marker.parent.name != but:
            shutil.rmtree(marker.parent, ignore_errors=True)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors inside say which round they stopped."""
    try:
        yield
    except LeanmotionError as error:
        raise LeanmotionError(f"round {name}: {error}") from error


def student_unet(samplers: Samplers, student: Student) -> "UNetMotionModel":
    """A UNet of its own with a student's weights; the teacher's for `base`."""
    from diffusers import UNetMotionModel

    from leanmotion.model.teacher import load_motion_adapter

    if student.is_teacher:
        return UNetMotionModel.from_unet2d(samplers.base.unet, load_motion_adapter(samplers.settings.teacher)).float()  # pyright: ignore[reportAttributeAccessIssue]
    student.verify()
    return apply_pruned(samplers.base.unet, student.adapter).float()


def prune(unet: "UNetMotionModel", plan: RoundPlan) -> "UNetMotionModel":
    """Remove what this round deletes beyond what is gone already, in place."""
    gone = set(removed_units(unet))
    remove_units(unet, [block for block in plan.removed if block not in gone])
    return unet


def drawing_of(settings: Settings, scheduler: Any) -> Drawing | None:
    """The sampler of the settings, if distillation draws at all."""
    sampling, how = settings.sampling, settings.distillation
    if how.inputs == "clips" and how.validation == 0:
        return None
    made = make_scheduler(scheduler, sampling.scheduler)
    return Drawing(made, sampling.steps, sampling.guidance, settings.prompts.negative if sampling.guidance > 1 else "")


def distillation_settings(settings: Settings, steps: int | None = None) -> DistillationSettings:
    """The library's settings from those of params.yaml: same names. `steps`: a budget that is not the setting's."""
    values = settings.distillation.model_dump()
    if steps is not None:
        values["steps"] = steps
    if isinstance(values["trainable"], list):
        values["trainable"] = tuple(values["trainable"])
    return DistillationSettings(**values)
