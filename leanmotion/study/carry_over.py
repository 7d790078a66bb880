"""Does a choice carry over? The chosen student beside the whole model where neither was judged.

On another base of the same family, at other lengths and steps, under another sampler, with a small change of its motion
modules: each is a *condition*. In each the whole model is the reference, so that what is asked is whether deletion
costs more there, not whether the condition is a hard one. Excess and distances are `evaluate`'s, on its report split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.evaluation import ORIGINAL, Arm, evaluate_split
from leanmotion.features.embedding import embedded
from leanmotion.features.extractors import Extractor
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord, fingerprint
from leanmotion.pipeline.settings import Settings
from leanmotion.videos.rendering import Take, render

SPLIT = "report"
STUDENT = "distilled"
AS_JUDGED = "as judged"
_LENGTHS, _STEPS = (12, 16), (6, 20)
_MEASURES = ("excess", "fvd", "paired")
_READ = ("colour_accuracy", "shape_accuracy", "motion_accuracy")


@dataclass(frozen=True)
class Condition:
    """Where a student is set beside the whole model: settings that differ from the run's, and the student there."""

    name: str
    settings: Settings
    student: Student


def conditions(
    settings: Settings, student: Student, longest: int, second_base: Path, changed: tuple[Path, Student]
) -> list[Condition]:
    """As judged, and then each thing by itself another one.

    Args:
        settings: the run's.
        student: the chosen one.
        longest: how many frames the adapter has positions for: no longer clips are asked for.
        second_base: folder of another base.
        changed: folder of the adapter with a small change, and the student with the same.

    Raises:
        LeanmotionError: the whole model was chosen: there is nothing to compare.
    """
    if student.is_teacher:
        raise LeanmotionError("carry-over: no round was chosen, so nothing can carry over: choose a wider allowance")

    def sampled(name: str, **how: Any) -> Condition:
        return Condition(
            name, settings.model_copy(update={"sampling": settings.sampling.model_copy(update=how)}), student
        )

    def taught(name: str, student: Student, **where: Path) -> Condition:
        paths = {role: str(path) for role, path in where.items()}
        teacher = settings.teacher.model_copy(update={**paths, "sha256": None})
        return Condition(name, settings.model_copy(update={"teacher": teacher}), student)

    now = settings.sampling
    other = "ddim" if now.scheduler == "euler" else "euler"
    return [
        Condition(AS_JUDGED, settings, student),
        taught("another base", student, base=second_base),
        *(sampled(f"{n} frames", frames=n) for n in _LENGTHS if n <= longest and n != now.frames),
        *(sampled(f"{n} steps", steps=n) for n in _STEPS if n != now.steps),
        sampled(f"sampler {other}", scheduler=other),
        taught("slower motion, by a low-rank change", changed[1], adapter=changed[0]),
    ]


def carried_over(
    planned: Sequence[Condition], record: TeacherRecord, extractor: Extractor, prompts: Path, scratch: Path
) -> Iterator[dict[str, Any]]:
    """Draw and compare; a row of the `carry_over` table for each condition, as it is through.

    Clips lie in the chunk store: what was drawn before a kill, or by the flow, is not drawn again.

    Args:
        planned: conditions.
        record: of the run's teacher.
        extractor: of the distances.
        prompts: the folder of prompt tables.
        scratch: for video tables.
    """
    for i, condition in enumerate(planned):
        settings, student = condition.settings, condition.student
        extractor.check_frames(settings.sampling.frames, settings.sampling.height, settings.sampling.width)
        samplers = Samplers(settings, _record(settings, record), [student])
        whole = samplers.teacher()
        takes = [Take(ORIGINAL, whole, SPLIT, "a"), Take(ORIGINAL, whole, SPLIT, "b")]
        takes.append(Take(STUDENT, samplers.student(student), SPLIT, "b"))
        out = scratch / f"{i}.parquet"
        render(takes, out, prompts=prompts, settings=settings, samplers=samplers, label=f"carry over, {condition.name}")
        read = FeatureSet([embedded(out, extractor)])
        arms = [
            Arm("base", "original", ORIGINAL, 0, 0, 0),
            Arm(student.round, STUDENT, STUDENT, len(student.removed), 0, 0),
        ]
        original, found = evaluate_split(read, arms[0], arms[1:], SPLIT, settings.evaluation)
        yield {
            "condition": condition.name,
            **{name: getattr(settings.sampling, name) for name in ("frames", "steps", "scheduler")},
            **{name: found[name] for name in ("removed", "videos", "null")},
            **{f"{name}{end}": found[f"{name}{end}"] for name in _MEASURES for end in ("", "_low", "_high")},
            **{name: found[name] for name in _READ},
            **{f"original_{name}": original[name] for name in _READ},
        }


def _record(settings: Settings, record: TeacherRecord) -> TeacherRecord:
    """Of a condition's own teacher: the run's, unless base or adapter is another."""
    sha256, files = fingerprint(settings.teacher)
    return record if files == record.files else replace(record, sha256=sha256, files=files, revisions={})
