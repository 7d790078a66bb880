"""Where else a student is tried: a second base, and motion modules with a small change, each made once and kept.

Both lie in the scratch folder under the address of all that makes them.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from leanmotion.distillation.rounds import student_unet
from leanmotion.model.pruned_adapter import save_pruned
from leanmotion.model.samplers import Networks
from leanmotion.model.student import Student, network_digest
from leanmotion.model.teacher import TeacherRecord, load_motion_adapter
from leanmotion.model.weights import locate
from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.settings import Settings
from leanmotion.sprites_training.motion_change import MotionChange, add_change, train_motion_change
from leanmotion.sprites_training.recipe import Recipe
from leanmotion.sprites_training.second_base import SecondBase, train_second_base


def second_base(settings: Settings, record: TeacherRecord, recipe: Recipe, how: SecondBase, scratch: Path) -> Path:
    """Folder of the second base (`train_second_base`)."""
    place = scratch / values_digest([record.sha256, asdict(recipe), asdict(how), code_address(train_second_base)])[:16]
    first = locate(settings.teacher.base, role="base")
    return _once(place / "base", lambda out: train_second_base(first, out, recipe, how, place))


def changed_motion(
    settings: Settings, record: TeacherRecord, student: Student, recipe: Recipe, how: MotionChange, scratch: Path
) -> tuple[Path, Student]:
    """Folder of the teacher's adapter with a small change (`train_motion_change`), and the student with the same.

    The change is trained on the whole model alone: the student gets what is left of it, as it would a motion LoRA.
    """
    place = (
        scratch / values_digest([record.sha256, asdict(recipe), asdict(how), code_address(train_motion_change)])[:16]
    )
    networks = Networks(settings, record)

    def write_change(out: Path) -> None:
        out.mkdir(parents=True)
        save_file(_separate(train_motion_change(networks.pipeline, recipe, how, place)), out / "change.safetensors")

    change = load_file(_once(place / "change", write_change) / "change.safetensors")

    def write_adapter(out: Path) -> None:
        adapter = load_motion_adapter(settings.teacher)
        add_change(adapter, change)
        adapter.save_pretrained(out)

    def write_student(out: Path) -> None:
        unet: Any = student_unet(networks, student)
        add_change(unet, change)
        save_pruned(unet, out / "adapter")
        weights = network_digest(out / "adapter")
        Student(out, f"{student.round}-changed", weights, student.removed, student.steps).write()

    adapter = _once(place / "adapter", write_adapter)
    return adapter, Student.read(_once(place / f"student-{student.weights[:16]}", write_student))


def _once(folder: Path, write: Callable[[Path], object]) -> Path:
    """The folder, written whole or not at all, if it is not there."""
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.rename(folder)
    return folder


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in tensors.items()}
