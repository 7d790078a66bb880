"""Norms of motion modules: diffusers' over clips, or the original's over frames; recorded, and followed everywhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNetMotionModel
from models import make_adapter, make_unet2d
from tiny import tiny_settings
from torch import Tensor, nn

from leanmotion.checking.refusals import Opened
from leanmotion.checking.remarks import remarks
from leanmotion.cost.inspection import inspect_teacher
from leanmotion.distillation.rounds import student_unet
from leanmotion.errors import LeanmotionError
from leanmotion.model.motion_norm import FrameNorm, motion_norm, set_motion_norm
from leanmotion.model.original_format import load_adapter, write_original
from leanmotion.model.pruned_adapter import apply_pruned, read_pruned_config, save_pruned
from leanmotion.model.removal import remove_units, without_units
from leanmotion.model.requests import Request
from leanmotion.model.sampler import Sampler
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student, network_digest
from leanmotion.model.teacher import TeacherRecord, load_pipeline
from leanmotion.model.units import block_ids, motion_slots
from leanmotion.model.variants import under_other_norm
from leanmotion.pipeline.settings import Settings
from leanmotion.videos.store import cut

pytestmark = pytest.mark.numeric


def frame_by_frame(norm: nn.GroupNorm, clips: Tensor) -> Tensor:
    """GroupNorm as the original code takes it: each frame of [clips, channels, frames, height, width] is a picture."""
    made = torch.empty_like(clips)
    for clip in range(clips.shape[0]):
        for frame in range(clips.shape[2]):
            picture = clips[clip : clip + 1, :, frame].contiguous()
            args: Any = (norm.num_groups, norm.weight, norm.bias, norm.eps)
            made[clip : clip + 1, :, frame] = nn.functional.group_norm(picture, *args)
    return made


def norms(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    for slot in motion_slots(unet):
        yield slot.block, getattr(slot.module, "norm", None)


def call(unet: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return unet(**inputs).sample


@pytest.fixture
def moved(tiny_unet):
    """Random norms as well: diffusers makes them all ones and zeros."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, norm in norms(tiny_unet):
            norm.weight.add_(torch.randn(norm.weight.shape, generator=generator))
            norm.bias.add_(torch.randn(norm.bias.shape, generator=generator))
    return tiny_unet


def test_each_frame_by_itself_at_every_block(moved, make_inputs) -> None:
    """To the bit, on what each block meets in a call of the whole UNet; and it is not what diffusers computes."""
    inputs, seen = make_inputs(batch=2), {}
    set_motion_norm(moved, "frame")
    for block, norm in norms(moved):
        assert type(norm) is FrameNorm
        norm.register_forward_hook(lambda norm, given, out, block=block: seen.update({block: (given[0], out)}))
    call(moved, inputs)
    assert list(seen) == block_ids(moved)
    for block, norm in norms(moved):
        given, out = seen[block]
        assert given.shape[0] == 2 and given.shape[2] == 4
        assert torch.equal(out, frame_by_frame(norm, given)), block
        if given[0, 0].numel() > 4:  # of one point a frame, both are one group
            assert not torch.allclose(out, nn.GroupNorm.forward(norm, given), atol=1e-3), block


def test_the_way_back_is_diffusers_own(moved, unet_inputs) -> None:
    state, stock = dict(moved.state_dict()), call(moved, unet_inputs)
    assert motion_norm(moved) == "clip"
    assert set_motion_norm(moved, "clip") is moved
    assert torch.equal(call(moved, unet_inputs), stock)
    set_motion_norm(moved, "frame")
    assert motion_norm(moved) == "frame" and not torch.allclose(call(moved, unet_inputs), stock, atol=1e-4)
    found = moved.state_dict()
    assert list(found) == list(state) and all(found[key].data_ptr() == state[key].data_ptr() for key in state)
    assert {key for key, _ in moved.named_parameters()} == {key for key in state if not key.endswith("pos_embed.pe")}
    set_motion_norm(moved, "clip")
    assert torch.equal(call(moved, unet_inputs), stock)


def test_units_go_and_come_back(moved, unet_inputs) -> None:
    set_motion_norm(moved, "frame")
    whole = call(moved, unet_inputs)
    with without_units(moved, ["up_3_2", "down_0_0-block0-attn1"]):
        assert motion_norm(moved) == "frame"
        assert not torch.equal(call(moved, unet_inputs), whole)
    assert torch.equal(call(moved, unet_inputs), whole)
    assert motion_norm(remove_units(moved, block_ids(moved))) == "clip", "nothing is left to normalise"


def test_gradients_reach_norms(moved, unet_inputs) -> None:
    set_motion_norm(moved, "frame")
    moved(**unet_inputs).sample.square().mean().backward()
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for _, norm in norms(moved))


def test_a_pruned_folder_records_it(make_unet, unet_inputs, tmp_path) -> None:
    unet = set_motion_norm(remove_units(make_unet(), ["up_3_2", "down_0_0-block0-attn1"]), "frame")
    folder = save_pruned(unet, tmp_path / "pruned")
    loaded = apply_pruned(make_unet2d(), folder)
    assert motion_norm(loaded) == "frame"
    assert torch.equal(call(loaded, unet_inputs), call(unet, unet_inputs))
    assert read_pruned_config(folder)["motion_norm"] == "frame"
    assert "motion_norm" not in read_pruned_config(save_pruned(set_motion_norm(unet, "clip"), folder))
    assert motion_norm(apply_pruned(make_unet2d(), folder)) == "clip"


@pytest.fixture(scope="module")
def teachers(teacher_folder) -> dict[str, SimpleNamespace]:
    """Settings and record under each norm."""
    made = {}
    for norm in ("clip", "frame"):
        settings = tiny_settings(teacher_folder(levels=2, layers=1))
        teacher = settings.teacher.model_copy(update={"motion_norm": norm})
        settings = settings.model_copy(update={"teacher": teacher})
        made[norm] = SimpleNamespace(settings=settings, record=inspect_teacher(settings)[0])
    return made


def test_the_record_tells_teachers_apart(teachers, tmp_path: Path) -> None:
    clip, frame = teachers["clip"].record, teachers["frame"].record
    assert clip.sha256 == clip.weights == frame.weights != frame.sha256
    for record in (clip, frame):
        record.write(tmp_path / "teacher.json")
        assert TeacherRecord.read(tmp_path / "teacher.json") == record
    wrong = json.loads((tmp_path / "teacher.json").read_text()) | {"motion_norm": "clip"}
    TeacherRecord(**{k: v for k, v in wrong.items() if k in clip.__dict__}).write(tmp_path / "teacher.json")
    with pytest.raises(LeanmotionError, match="corrupt"):
        TeacherRecord.read(tmp_path / "teacher.json")


def test_as_before_leaves_the_record_and_addresses_alone(teachers, tmp_path: Path) -> None:
    """`clip` is what was before there was a choice: no file says it, and every stored chunk keeps its address."""
    clip, frame = teachers["clip"], teachers["frame"]
    clip.record.write(tmp_path / "teacher.json")
    assert "motion_norm" not in (tmp_path / "teacher.json").read_text()
    requests = [Request("a cat", "", 0)]
    chunks = [cut(Samplers(t.settings, t.record).teacher(), requests, t.settings.sampling)[0] for t in (clip, frame)]
    assert chunks[0].variant.weights == clip.record.weights
    assert chunks[0].address != chunks[1].address


@pytest.mark.parametrize(("set_to", "recorded"), [("clip", "frame"), ("frame", "clip")])
def test_another_norm_than_recorded_is_refused(teachers, set_to: str, recorded: str) -> None:
    with pytest.raises(LeanmotionError, match=f"motion_norm is {set_to}, data/teacher.json records {recorded}"):
        Samplers(teachers[set_to].settings, teachers[recorded].record)


def test_the_teacher_and_students_of_it_follow(teachers, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    drawn = {}
    for norm, teacher in teachers.items():
        samplers = Samplers(teacher.settings, teacher.record)
        base = Student(tmp_path / "base", "base", teacher.record.sha256, ())
        assert motion_norm(load_pipeline(teacher.settings.teacher).unet) == norm
        assert motion_norm(samplers.pipeline.unet) == norm
        first = student_unet(samplers, base)
        assert motion_norm(first) == norm and first is not samplers.pipeline.unet
        save_pruned(remove_units(first, ["mid_0"]), tmp_path / norm / "adapter")
        config = read_pruned_config(tmp_path / norm / "adapter")
        assert config.get("motion_norm", "clip") == norm
        drawn[norm] = samplers(samplers.teacher())([Request("a cat", "", 0)])
    assert (drawn["clip"] != drawn["frame"]).any()


@pytest.mark.parametrize(("own", "other"), [("clip", "frame"), ("frame", "clip")])
def test_a_student_of_one_norm_is_drawn_under_the_other(teachers, monkeypatch, tmp_path: Path, own, other) -> None:
    """The original is what a run under the other norm has, by address too; the student is drawn of its own weights."""
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    mine, theirs = teachers[own], teachers[other]
    settings, record = under_other_norm(mine.settings, mine.record)
    assert (settings, record) == (theirs.settings, theirs.record)
    unet = remove_units(load_pipeline(mine.settings.teacher).unet, ["mid_0"])
    save_pruned(unet, tmp_path / "adapter")
    student = Student(tmp_path, "r1", network_digest(tmp_path / "adapter"), ("mid_0",))
    samplers = Samplers(settings, record, [student])
    request = [Request("a cat", "", 0)]
    # No weight was trained, so that the student is the original without the block.
    there = Samplers(theirs.settings, theirs.record)
    drawn = samplers(samplers.student(student))(request)
    assert (drawn == there(there.teacher(["mid_0"]))(request)).all()
    here = Samplers(mine.settings, mine.record, [student])
    assert (drawn != here(here.student(student))(request)).any()


def test_the_norm_is_set_before_weights_are_placed(teachers, monkeypatch, tmp_path: Path) -> None:
    """What offloads weights hangs hooks on modules, which a norm put in afterwards would lack."""
    placed: list[str] = []

    class Watched(Sampler):
        def __init__(self, pipeline: Any, *args: Any) -> None:
            placed.append(motion_norm(pipeline.unet))
            super().__init__(pipeline, *args)

    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    monkeypatch.setattr("leanmotion.model.samplers.Sampler", Watched)
    mine = teachers["clip"]
    save_pruned(remove_units(load_pipeline(mine.settings.teacher).unet, ["mid_0"]), tmp_path / "adapter")
    student = Student(tmp_path, "r1", network_digest(tmp_path / "adapter"), ("mid_0",))
    samplers = Samplers(*under_other_norm(mine.settings, mine.record), [student])
    for variant in (samplers.teacher(), samplers.student(student)):
        samplers.sampler(variant)
    assert placed == ["frame", "frame"]


def test_check_says_what_it_means(teachers, tmp_path: Path) -> None:
    def said(settings: Settings) -> list[str]:
        return [line for line in remarks(Opened(settings)) if line.startswith("teacher.motion_norm")]

    assert said(teachers["clip"].settings) == []
    (line,) = said(teachers["frame"].settings)
    assert line.startswith("teacher.motion_norm frame: ") and "diffusers" in line
    # An original file: in the clients that such files are of, `clip` is another model.
    file = write_original(make_adapter(2, 1), tmp_path / "mm.safetensors")
    teacher = teachers["clip"].settings.teacher.model_copy(update={"adapter": str(file)})
    (line,) = said(teachers["clip"].settings.model_copy(update={"teacher": teacher}))
    assert line.startswith("teacher.motion_norm clip: ") and "set frame" in line
    unet: Any = UNetMotionModel.from_unet2d(make_unet2d(2, 1), load_adapter(file))
    assert motion_norm(unet) == "clip"
