"""The three exported forms on the embedded default: frames of the student, in stock pipelines where people use them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter

from leanmotion.export.export import export_student
from leanmotion.model.pruned_adapter import load_pruned_pipeline, save_pruned
from leanmotion.model.removal import remove_units
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student, network_digest
from leanmotion.model.teacher import TeacherRecord, fingerprint, load_pipeline
from leanmotion.pipeline.settings import Settings, load_settings

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, embedded: Path) -> SimpleNamespace:
    """A student of the embedded default: 8 blocks gone, the rest not the teacher's; its exports and its frames."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(embedded)
        patch.setenv("LEANMOTION_DEVICE", "cpu")
        settings = load_settings()
        total, files = fingerprint(settings.teacher)
        record = TeacherRecord(total, files, settings.teacher.dtype, {}, 10, 5, 10, 5)
        pipeline = load_pipeline(settings.teacher)
        removed = settings.teacher.blocks[1:9]
        remove_units(pipeline.unet, removed)
        with torch.no_grad():
            for name, value in pipeline.unet.named_parameters():
                if ".motion_modules." in name:
                    value.mul_(1.05)
        save_pruned(pipeline.unet, folder / "student/adapter")
        digest = network_digest(folder / "student/adapter")
        student = Student(folder / "student", "r08", digest, tuple(removed))
        student.write()
        sizes = export_student(Samplers(settings, record, [student]), student, {}, folder / "out", prompt="a ring")
        base = embedded / settings.teacher.base
        teacher = embedded / settings.teacher.adapter
        whole, pruned = (stock(base, teacher), pipeline)
        return SimpleNamespace(
            out=folder / "out", base=base, sizes=sizes, settings=settings,
            student=frames(pruned, settings), teacher=frames(whole, settings),
        )  # fmt: skip


def stock(base: Path, adapter: MotionAdapter | Path) -> AnimateDiffPipeline:
    """As diffusers' users load it, on a base with a `UNet2DConditionModel`."""
    if isinstance(adapter, Path):
        adapter = MotionAdapter.from_pretrained(adapter)
    return AnimateDiffPipeline.from_pretrained(base, motion_adapter=adapter)


def frames(pipeline: Any, settings: Settings) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    s = settings.sampling
    return pipeline(
        "a red circle gliding", num_frames=s.frames, height=s.height, width=s.width, num_inference_steps=2,
        guidance_scale=s.guidance, generator=torch.Generator().manual_seed(3), output_type="np",
    ).frames[0]  # fmt: skip


def the_students(exported: SimpleNamespace, pipeline: AnimateDiffPipeline) -> None:
    found = frames(pipeline, exported.settings)
    assert np.abs(found - exported.student).max() <= 1e-4
    # The adapter was used: neither the teacher's frames came out, nor something that does not move at all.
    assert np.abs(found - exported.teacher).max() > 0.01
    assert np.abs(np.diff(found, axis=0)).max() > 0.01


def test_the_pruned_form_is_the_smallest(exported) -> None:
    assert set(exported.sizes) == {"pruned", "portable", "original", "comfyui"}
    assert exported.sizes["pruned"] < exported.sizes["portable"] < exported.sizes["original"]
    assert exported.sizes["comfyui"] < 50_000  # texts: the weights are those of the original form


def test_pruned(exported) -> None:
    the_students(exported, load_pruned_pipeline(exported.out / "pruned", base=exported.base))


def test_portable_in_the_stock_pipeline(exported) -> None:
    the_students(exported, stock(exported.base, exported.out / "portable"))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_original_in_the_stock_single_file_loader(exported, suffix: str) -> None:
    file = exported.out / "original" / f"motion_module{suffix}"
    adapter = MotionAdapter.from_single_file(str(file), config=str(exported.out / "portable"), local_files_only=True)
    the_students(exported, stock(exported.base, adapter))
