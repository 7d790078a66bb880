"""Samplers of the teacher with units removed, and of students: what the chunk store calls when a chunk is missing."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from leanmotion.adapter import load_pruned_pipeline
from leanmotion.chunks import Draw, Variant
from leanmotion.errors import LeanmotionError
from leanmotion.removal import without_units
from leanmotion.sampling import Request, Sampler
from leanmotion.settings import Settings
from leanmotion.students import Student
from leanmotion.teacher import TeacherRecord, load_base, load_pipeline, verify

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline, StableDiffusionPipeline


class Samplers:
    """Makes the sampler of a variant; the teacher is loaded once, and only when a chunk is missing.

    Args:
        settings: All settings.
        record: What `inspect` recorded of the teacher; other weights are refused.
        students: Rounds whose weights variants may name.
    """

    def __init__(self, settings: Settings, record: TeacherRecord, students: Sequence[Student] = ()) -> None:
        self.settings = settings
        self.record = record
        self.students = {student.weights: student for student in students if not student.is_teacher}
        torch.set_num_threads(settings.sampling.threads)

    def teacher(self, removed: Sequence[str] = ()) -> Variant:
        """The variant that is the teacher without some units."""
        return Variant(self.record.sha256, tuple(removed), self.settings.teacher.dtype)

    def student(self, student: Student) -> Variant:
        """The variant that is a student: its removed units are gone from its weights already."""
        if student.is_teacher:
            return self.teacher()
        return Variant(f"{self.record.sha256}+{student.weights}", student.removed, self.settings.teacher.dtype)

    def __call__(self, variant: Variant) -> Draw:
        """A function that draws a variant's clips."""
        base, _, weights = variant.weights.partition("+")
        if base != self.record.sha256 or (weights and weights not in self.students):
            raise LeanmotionError("data/teacher.json is of other weights than these videos ask for: `dvc repro`")
        if weights:
            student = self.students[weights]
            student.verify()
            drawn = self._sampler(load_pruned_pipeline(student.adapter, base=self.base))
            return _named(drawn, f"the student of {student.round}")
        sampler = self._sampler(self.pipeline)

        def draw(requests: Sequence[Request]) -> np.ndarray:
            with without_units(self.pipeline.unet, variant.removed):
                return sampler(requests)

        return _named(draw, f"the original without {', '.join(variant.removed)}" if variant.removed else "the original")

    @cached_property
    def base(self) -> "StableDiffusionPipeline":
        """The teacher's base pipeline, verified against the record."""
        verify(self.settings.teacher, self.record)
        return load_base(self.settings.teacher)

    @cached_property
    def pipeline(self) -> "AnimateDiffPipeline":
        """The teacher: base and motion adapter."""
        return load_pipeline(self.settings.teacher, self.base)

    def _sampler(self, pipeline: Any) -> Sampler:
        return Sampler(pipeline, self.settings.sampling, device())


def _named(draw: Draw, name: str) -> Draw:
    """The same function, whose errors say which variant was drawn."""

    def named(requests: Sequence[Request]) -> np.ndarray:
        try:
            return draw(requests)
        except LeanmotionError as error:
            raise LeanmotionError(f"{name}: {error}") from error

    return named


def device() -> str:
    """Where networks run: `$LEANMOTION_DEVICE`, else a GPU where there is one. Never part of a cached result."""
    return os.environ.get("LEANMOTION_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
