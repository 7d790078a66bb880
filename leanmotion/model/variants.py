"""Which weights without which units: names of what can be drawn. No network is loaded to name one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from leanmotion.model.requests import Draw, Variant
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord, check_dtype, teacher_digest
from leanmotion.pipeline.settings import MotionNorm, Settings


class Variants:
    """Names the variants of one teacher and its students.

    Args:
        settings: All settings.
        record: What `inspect` recorded of the teacher.

    Raises:
        LeanmotionError: The settings ask for another dtype than the record's.
    """

    def __init__(self, settings: Settings, record: TeacherRecord) -> None:
        check_dtype(settings.teacher, record)
        self.settings = settings
        self.record = record

    def teacher(self, removed: Sequence[str] = ()) -> Variant:
        """The variant that is the teacher without some units."""
        return Variant(self.record.sha256, tuple(removed), self.record.dtype)

    def student(self, student: Student, without: Sequence[str] = ()) -> Variant:
        """The variant that is a student, whose own removed units are gone from its weights; and without some more."""
        if student.is_teacher:
            return self.teacher(without)
        removed = (*student.removed, *without)
        return Variant(f"{self.record.sha256}+{student.weights}", removed, self.record.dtype)

    def samplers(self, students: Sequence[Student] = ()) -> Callable[[Variant], Draw]:
        """`Samplers`, made when the first clip has to be drawn: what is stored needs no network, and no torch."""

        @cache
        def made() -> Callable[[Variant], Draw]:
            from leanmotion.model.samplers import Samplers

            return Samplers(self.settings, self.record, students)

        return lambda variant: made()(variant)


def under_other_norm(settings: Settings, record: TeacherRecord) -> tuple[Settings, TeacherRecord]:
    """Settings and record of the same teacher under the motion norm that is not its own."""
    norm: MotionNorm = "frame" if record.motion_norm == "clip" else "clip"
    teacher = settings.teacher.model_copy(update={"motion_norm": norm})
    named = replace(record, motion_norm=norm, sha256=teacher_digest(record.weights, norm))
    return settings.model_copy(update={"teacher": teacher}), named
