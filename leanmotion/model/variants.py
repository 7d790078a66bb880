"""Which weights without which units: names of what can be drawn. No network is loaded to name one."""

from collections.abc import Callable, Sequence
from functools import cache

from leanmotion.model.requests import Draw, Variant
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline.settings import Settings


class Variants:
    """Names the variants of one teacher and its students.

    Args:
        settings: All settings.
        record: What `inspect` recorded of the teacher.
    """

    def __init__(self, settings: Settings, record: TeacherRecord) -> None:
        self.settings = settings
        self.record = record

    def teacher(self, removed: Sequence[str] = ()) -> Variant:
        """The variant that is the teacher without some units."""
        return Variant(self.record.sha256, tuple(removed), self.settings.teacher.dtype)

    def student(self, student: Student, without: Sequence[str] = ()) -> Variant:
        """The variant that is a student, whose own removed units are gone from its weights; and without some more."""
        if student.is_teacher:
            return self.teacher(without)
        removed = (*student.removed, *without)
        return Variant(f"{self.record.sha256}+{student.weights}", removed, self.settings.teacher.dtype)

    def samplers(self, students: Sequence[Student] = ()) -> Callable[[Variant], Draw]:
        """`Samplers`, made when the first clip has to be drawn: what is stored needs no network, and no torch."""

        @cache
        def made() -> Callable[[Variant], Draw]:
            from leanmotion.model.samplers import Samplers

            return Samplers(self.settings, self.record, students)

        return lambda variant: made()(variant)
