"""Samplers of the teacher with units removed, and of students: what the chunk store calls when a chunk is missing."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from leanmotion.errors import LeanmotionError
from leanmotion.model.motion_norm import motion_norm, set_motion_norm
from leanmotion.model.pruned_adapter import pruned_pipeline
from leanmotion.model.removal import removed_units, without_units
from leanmotion.model.requests import Draw, Request, Variant
from leanmotion.model.sampler import Sampler
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord, check_dtype, load_base, load_pipeline, verify
from leanmotion.model.variants import Variants
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.setting_address import added
from leanmotion.pipeline.settings import Settings

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline, StableDiffusionPipeline


class Networks:
    """The teacher's networks, loaded once, and only when they are asked for.

    Args:
        settings: All settings.
        record: What `inspect` recorded of the teacher; other weights are refused.

    Raises:
        LeanmotionError: The settings ask for another dtype than the record's.
    """

    def __init__(self, settings: Settings, record: TeacherRecord) -> None:
        check_dtype(settings.teacher, record)
        self.settings = settings
        self.record = record
        torch.set_num_threads(settings.sampling.threads)

    @cached_property
    def base(self) -> "StableDiffusionPipeline":
        """The teacher's base pipeline, verified against the record."""
        verify(self.settings.teacher, self.record)
        return load_base(self.settings.teacher)

    @cached_property
    def pipeline(self) -> "AnimateDiffPipeline":
        """The teacher: base and motion adapter."""
        return load_pipeline(self.settings.teacher, self.base)


class Samplers(Networks, Variants):
    """Makes the sampler of a variant; the teacher is loaded once, and only when a chunk is missing.

    Args:
        settings: All settings.
        record: What `inspect` recorded of the teacher; other weights are refused.
        students: Rounds whose weights variants may name.
    """

    def __init__(self, settings: Settings, record: TeacherRecord, students: Sequence[Student] = ()) -> None:
        super().__init__(settings, record)
        self.students = {student.weights: student for student in students if not student.is_teacher}
        self._drawn: tuple[str, Sampler] | None = None

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
            self._drawn = weights, self._sampler(pruned_pipeline(student.adapter, self.base))
        return self._drawn[1]

    def _sampler(self, pipeline: Any) -> Sampler:
        if added(self.settings.teacher.motion_norm != motion_norm(pipeline.unet)):
            # A student is kept under the norm that it was trained under. Before weights are placed, and have hooks.
            set_motion_norm(pipeline.unet, self.settings.teacher.motion_norm)
        return Sampler(pipeline, self.settings.sampling, device())


def _named(draw: Draw, name: str) -> Draw:
    """The same function, whose errors say which variant was drawn."""

    def named(requests: Sequence[Request]) -> np.ndarray:
        try:
            return draw(requests)
        except LeanmotionError as error:
            raise LeanmotionError(f"{name}: {error}") from error

    return named
