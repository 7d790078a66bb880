"""Samplers of the teacher with units removed, and of students: what the chunk store calls when a chunk is missing."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from leanmotion.errors import LeanmotionError
from leanmotion.model.pruned_adapter import load_pruned_pipeline
from leanmotion.model.removal import removed_units, without_units
from leanmotion.model.requests import Draw, Request, Variant
from leanmotion.model.sampler import Sampler
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord, check_dtype, load_base, load_pipeline, verify
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.settings import Settings

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline, StableDiffusionPipeline


class Samplers:
    """Makes the sampler of a variant; the teacher is loaded once, and only when a chunk is missing.

    Args:
        settings: All settings.
        record: What `inspect` recorded of the teacher; other weights are refused.
        students: Rounds whose weights variants may name.

    Raises:
        LeanmotionError: The settings ask for another dtype than the record's.
    """

    def __init__(self, settings: Settings, record: TeacherRecord, students: Sequence[Student] = ()) -> None:
        check_dtype(settings.teacher, record)
        self.settings = settings
        self.record = record
        self.students = {student.weights: student for student in students if not student.is_teacher}
        self._drawn: tuple[str, Sampler] | None = None
        torch.set_num_threads(settings.sampling.threads)

    def teacher(self, removed: Sequence[str] = ()) -> Variant:
        """The variant that is the teacher without some units."""
        return Variant(self.record.sha256, tuple(removed), self.record.dtype)

    def student(self, student: Student, without: Sequence[str] = ()) -> Variant:
        """The variant that is a student, whose own removed units are gone from its weights; and without some more."""
        if student.is_teacher:
            return self.teacher(without)
        removed = (*student.removed, *without)
        return Variant(f"{self.record.sha256}+{student.weights}", removed, self.record.dtype)

    def __call__(self, variant: Variant) -> Draw:
        """A function that draws a variant's clips."""
        sampler = self.sampler(variant)
        gone = set(removed_units(sampler.pipeline.unet))
        more = [unit for unit in variant.removed if unit not in gone]

        def draw(requests: Sequence[Request]) -> np.ndarray:
            with without_units(sampler.pipeline.unet, more):
                return sampler(requests)

        _, _, weights = variant.weights.partition("+")
        name = f"the student of {self.students[weights].round}" if weights else "the original"
        return _named(draw, f"{name} without {', '.join(more)}" if more else name)

    def sampler(self, variant: Variant) -> Sampler:
        """The sampler of a variant's weights: of the teacher whole, of a student without what it lost itself."""
        base, _, weights = variant.weights.partition("+")
        if base != self.record.sha256 or (weights and weights not in self.students):
            raise LeanmotionError("data/teacher.json is of other weights than these videos ask for: `dvc repro`")
        if not weights:
            return self._sampler(self.pipeline)
        if self._drawn is None or self._drawn[0] != weights:
            # One at a time: ablations of a student follow one another.
            student = self.students[weights]
            student.verify()
            self._drawn = weights, self._sampler(load_pruned_pipeline(student.adapter, base=self.base))
        return self._drawn[1]

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


def devices() -> list[str]:
    """All devices that one process each can use: `$LEANMOTION_DEVICE`, else every GPU in sight, else the CPU."""
    if chosen := os.environ.get("LEANMOTION_DEVICE"):
        return [chosen]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
