"""Samplers of the teacher with units removed, and of students: what the chunk store calls when a chunk is missing."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from leanmotion.adapter import load_pruned_pipeline
from leanmotion.chunks import Draw, Variant
from leanmotion.errors import LeanmotionError
from leanmotion.removal import without_units
from leanmotion.sampling import Request, Sampler
from leanmotion.settings import Settings
from leanmotion.tables import write_text
from leanmotion.teacher import TeacherRecord, load_base, load_pipeline, verify

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline, StableDiffusionPipeline


@dataclass(frozen=True)
class Student:
    """A round's outcome: its weights by SHA-256 and its own deletion list. The teacher is the student of `base`.

    `folder` holds `student.json` and, but for `base`, the pruned adapter in `adapter/`.
    """

    folder: Path
    round: str
    weights: str
    removed: tuple[str, ...]

    @property
    def adapter(self) -> Path:
        """The pruned adapter's folder."""
        return self.folder / "adapter"

    @property
    def is_teacher(self) -> bool:
        """Whether nothing is removed or trained."""
        return not self.removed

    def write(self) -> None:
        """Write `student.json`."""
        what = {"round": self.round, "weights": self.weights, "removed": list(self.removed)}
        write_text(self.folder / "student.json", json.dumps(what, indent=1) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> "Student":
        """Read a student's folder.

        Raises:
            LeanmotionError: Missing or damaged.
        """
        path = Path(folder) / "student.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(Path(folder), raw["round"], raw["weights"], tuple(raw["removed"]))
        except FileNotFoundError:
            raise LeanmotionError(f"{path}: no such file: `dvc repro` makes it") from None
        except (ValueError, KeyError, TypeError) as error:
            raise LeanmotionError(f"{path}: corrupt: delete {folder}, then `dvc repro`") from error


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
            return self._sampler(load_pruned_pipeline(self.students[weights].adapter, base=self.base))
        sampler = self._sampler(self.pipeline)

        def draw(requests: Sequence[Request]) -> np.ndarray:
            with without_units(self.pipeline.unet, variant.removed):
                return sampler(requests)

        return draw

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


def device() -> str:
    """Where networks run: `$LEANMOTION_DEVICE`, else a GPU where there is one. Never part of a cached result."""
    return os.environ.get("LEANMOTION_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def devices() -> list[str]:
    """All devices that one process each can use: `$LEANMOTION_DEVICE`, else every GPU in sight, else the CPU."""
    if chosen := os.environ.get("LEANMOTION_DEVICE"):
        return [chosen]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
