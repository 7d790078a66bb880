"""A round on the tiny teacher: what is deleted, what is trained, what the next one starts from."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BLOCKS, tiny_settings

from leanmotion.clips.sources import write_clips_of
from leanmotion.cost.inspection import inspect_teacher
from leanmotion.distillation import rounds
from leanmotion.distillation.rounds import prune, round_address, run_round, student_unet
from leanmotion.errors import LeanmotionError
from leanmotion.model.pruned_adapter import read_pruned_config
from leanmotion.model.removal import removed_units
from leanmotion.model.requests import Request
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import RoundPlan, Student, plan_round
from leanmotion.model.units import parameters
from leanmotion.pipeline.records import write_record
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.pipeline.training_settings import Budget, Distillation
from leanmotion.prompts.splits import training_rows


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANMOTION_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        patch.setenv("LEANMOTION_DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def settings(teacher_folder):
    return tiny_settings(teacher_folder(levels=2, layers=1))


@pytest.fixture(scope="module")
def samplers(settings):
    record, _ = inspect_teacher(settings)
    return Samplers(settings, record)


@pytest.fixture(scope="module")
def clips(settings, samplers, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clips.parquet"
    assert write_clips_of(settings, samplers, path) == (4, [])
    return path


@pytest.fixture(scope="module")
def base(samplers, tmp_path_factory) -> Student:
    student = Student(tmp_path_factory.mktemp("base"), "base", samplers.record.sha256, ())
    student.write()
    return Student.read(student.folder)


def order(folder: Path, *removed: str) -> Path:
    path = folder / "order.json"
    write_record(path, {"removed": list(removed)})
    return path


@pytest.fixture(scope="module")
def chain(settings, samplers, clips, base, tmp_path_factory) -> list[Student]:
    """The teacher and the students of two rounds."""
    folder = tmp_path_factory.mktemp("chain")
    students = [base]
    for name, removed in (("r1", ["mid_0"]), ("r3", ["up_1_1", "mid_0", "down_0_0"])):
        plan = plan_round(settings, name, students[-1], order(folder, *removed))
        run_round(settings, plan, samplers, clips, folder / name)
        students.append(Student.read(folder / name))
    return students


def test_a_round_trains_its_own_number_of_steps(settings, samplers, clips, base, tmp_path) -> None:
    assert settings.distillation.steps == 2
    own = settings.rounds["r1"].model_copy(update={"steps": 3})
    changed = settings.model_copy(update={"rounds": {**settings.rounds, "r1": own}})
    for chosen, steps in ((changed, 3), (settings, 2)):
        plan = plan_round(chosen, "r1", base, order(tmp_path, "mid_0"))
        assert len(run_round(chosen, plan, samplers, clips, tmp_path / f"{steps}")) == steps


def test_steps_go_by_harm_within_a_total(settings, samplers, clips, base, tmp_path) -> None:
    """What a student's rounds have spent travels with it; branches share what came before them alone."""
    before = tiny_settings(_folders(settings), distillation={"validation": 2, "steps": 0, "feature_weight": 1.0})
    plan = plan_round(before, "r1", base, order(tmp_path, "mid_0"))
    chosen = before.model_copy(
        update={"distillation": before.distillation.model_copy(update={"budget": Budget(total=5, broken=1e-9)})}
    )
    plan = plan_round(chosen, "r1", base, order(tmp_path, "mid_0"))
    assert plan.steps is None and plan_round(chosen, "r1", base, order(tmp_path, "mid_0"), again=True).steps is None
    own = chosen.model_copy(
        update={"rounds": {**chosen.rounds, "r1": chosen.rounds["r1"].model_copy(update={"steps": 3})}}
    )
    assert (
        len(run_round(own, plan_round(own, "r1", base, order(tmp_path, "mid_0")), samplers, clips, tmp_path / "1")) == 3
    )
    first = Student.read(tmp_path / "1")
    assert first.steps == 3
    plan = plan_round(chosen, "r3", first, order(tmp_path, "mid_0", "up_0_0", "up_0_1"))
    assert len(run_round(chosen, plan, samplers, clips, tmp_path / "3")) == 2
    assert Student.read(tmp_path / "3").steps == 5
    unharmed = Budget(total=5, unharmed=1e9, broken=2e9)
    calm = chosen.model_copy(update={"distillation": chosen.distillation.model_copy(update={"budget": unharmed})})
    assert run_round(calm, plan, samplers, clips, tmp_path / "calm") == []
    evidence = read_pruned_config(tmp_path / "calm" / "adapter")["evidence"]
    assert evidence["distance_before"] == evidence["distance_after"] > 0 and evidence["steps"] == 0
    assert Student.read(tmp_path / "calm").steps == 3


def test_clips_are_noised_by_the_samplers_betas(settings, samplers, clips, base, tmp_path, monkeypatch) -> None:
    """A Stable Diffusion base has others than the ddim, euler or lcm that AnimateDiff is sampled with."""
    import diffusers

    # Of its own: what nothing trained must not be kept for others.
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    seen: list[Any] = []
    monkeypatch.setattr(rounds, "distil", lambda *arguments, **_: seen.append(arguments[2]) or [])
    odd = Samplers(settings, samplers.record)
    odd.pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        odd.pipeline.scheduler.config, beta_schedule="scaled_linear"
    )
    for name in ("ddim", "base"):
        chosen = tiny_settings(_folders(settings), sampling={"scheduler": name})
        plan = plan_round(chosen, "r1", base, order(tmp_path, "mid_0"))
        run_round(chosen, plan, odd, clips, tmp_path / name)
    linear, base_own = seen
    assert linear.config.beta_schedule == "linear" and base_own.config.beta_schedule == "scaled_linear"
    assert not torch.equal(linear.alphas_cumprod, base_own.alphas_cumprod)


def test_all_rounds_share_the_teachers_clips(settings, samplers, clips, base, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    way = {"objective": "endpoint", "endpoint_clips": 3, "validation": 1, "last_steps": 1}
    chosen = tiny_settings(_folders(settings), distillation=way)
    student, written = base, []
    for name, removed in (("r1", ["mid_0"]), ("r3", ["up_1_1", "mid_0", "down_0_0"])):
        plan = plan_round(chosen, name, student, order(tmp_path, *removed))
        rows = run_round(chosen, plan, samplers, clips, tmp_path / name)
        assert all(row["total"] == row["endpoint"] > 0 and row["output"] is None for row in rows)
        student = Student.read(tmp_path / name)
        found = (tmp_path / "scratch/teacher-clips").rglob("*.parquet")
        written.append({path: path.stat().st_mtime_ns for path in found})
    # Parts of a micro-batch of 2: three to train on, and one that no step sees.
    assert written[0] == written[1] and sorted(path.stem for path in written[0]) == ["0-2", "2-3", "3-4"]


def test_an_unknown_round_is_named(settings, base, tmp_path) -> None:
    with pytest.raises(LeanmotionError, match=r"--round r2: not in params\.yaml: name one of r1, r3"):
        plan_round(settings, "r2", base, order(tmp_path, "mid_0"))


def test_each_student_is_smaller_by_what_was_deleted(chain, samplers) -> None:
    sizes = {unit.block: unit.parameters for unit in _units(samplers)}
    assert [student.removed for student in chain] == [(), ("mid_0",), ("down_0_0", "mid_0", "up_1_1")]
    for student in chain:
        unet = student_unet(samplers, student)
        assert removed_units(unet) == list(student.removed)
        assert parameters(unet) == samplers.record.parameters - sum(sizes[block] for block in student.removed)


def test_a_round_goes_on_from_the_previous_student(chain, samplers, settings) -> None:
    """Its weights before training are those that the first round trained, not the teacher's."""
    teacher, first, last = (student_unet(samplers, student) for student in chain)
    start = prune(student_unet(samplers, chain[1]), RoundPlan("r3", chain[1], chain[2].removed))
    assert removed_units(start) == list(chain[2].removed)
    key = next(key for key, _ in last.named_parameters() if "up_blocks.0.motion_modules.0" in key and "to_q" in key)
    weights = [unet.state_dict()[key] for unet in (teacher, first, start, last)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[2], weights[3])
    # Two steps of Adam move a weight by at most about twice the learning rate each; from the teacher it is four.
    rate = settings.distillation.learning_rate
    assert (weights[3] - weights[2]).abs().max() <= 2.1 * rate


def test_spatial_layers_are_the_teachers(chain, samplers) -> None:
    teacher, last = student_unet(samplers, chain[0]).state_dict(), student_unet(samplers, chain[-1]).state_dict()
    assert all(torch.equal(value, teacher[key]) for key, value in last.items() if ".motion_modules." not in key)


def test_what_a_round_leaves(chain, samplers) -> None:
    folder = chain[1].folder
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "losses.parquet", "student.json"]
    losses = read_frame(folder / "losses.parquet", "losses")
    assert losses["step"].tolist() == [1, 2] or losses["step"].tolist() == [0, 1]
    assert losses["total"].notna().all()  # pyright: ignore
    config = read_pruned_config(folder / "adapter")
    assert config["evidence"]["teacher_sha256"] == samplers.record.sha256
    assert not list((scratch_folder() / "distil").iterdir()) and not (scratch_folder() / "clips").exists()
    # Of a round that ended not the checkpoint stays but the student, as links to the very files that it wrote.
    kept = [path for path in (scratch_folder() / "rounds").rglob("*") if path.is_file()]
    assert {path.relative_to(scratch_folder() / "rounds").parts[0] for path in kept} == {"r1", "r3"}
    links = [path.stat().st_nlink for path in kept if path.name != "kept.json"]
    assert links == [2] * 8


def test_students_have_samplers_and_addresses_of_their_own(chain, samplers, settings) -> None:
    ours = Samplers(settings, samplers.record, chain)
    variants = [ours.student(student) for student in chain]
    assert variants[0] == ours.teacher() and len({variant.weights for variant in variants}) == 3
    requests = [Request("a dog", "", 1)]
    drawn = [ours(variant)(requests) for variant in [*variants, ours.teacher(chain[1].removed)]]
    assert all(clip.shape == (1, 3, 32, 32, 3) for clip in drawn)
    assert len({clip.tobytes() for clip in drawn}) == 4, "pruned only is not pruned and distilled"
    # The teacher is whole again after it was sampled without a block.
    assert (ours(variants[0])(requests) == drawn[0]).all()
    with pytest.raises(LeanmotionError, match="other weights"):
        samplers(variants[1])


def test_no_steps_only_delete(settings, samplers, clips, base, tmp_path) -> None:
    still = tiny_settings(_folders(settings), distillation={"steps": 0})
    plan = plan_round(still, "r1", base, order(tmp_path, "mid_0"))
    assert run_round(still, plan, Samplers(still, samplers.record), clips, tmp_path / "r1") == []
    student = Student.read(tmp_path / "r1")
    unet, teacher = student_unet(samplers, student).state_dict(), student_unet(samplers, base).state_dict()
    assert all(torch.equal(value, teacher[key]) for key, value in unet.items())


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_round_twice_is_the_same_student(chain, settings, samplers, clips, tmp_path, monkeypatch) -> None:
    """Trained again, in a scratch folder of its own."""
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    plan = plan_round(settings, "r1", chain[0], order(tmp_path, "mid_0"))
    run_round(settings, plan, samplers, clips, tmp_path / "again")
    assert files(tmp_path / "again") == files(chain[1].folder)


class Unloaded(Samplers):
    """Networks that must not be asked for."""

    @cached_property
    def base(self) -> Any:
        raise AssertionError("loaded")

    @cached_property
    def pipeline(self) -> Any:
        raise AssertionError("loaded")


def test_a_finished_round_is_put_back_without_loading_networks(
    chain, settings, samplers, clips, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    plan = plan_round(settings, "r1", chain[0], order(tmp_path, "mid_0"))
    rows = run_round(settings, plan, samplers, clips, tmp_path / "first")
    idle = Unloaded(settings, samplers.record)
    assert run_round(settings, plan, idle, clips, tmp_path / "again") == rows
    assert files(tmp_path / "again") == files(tmp_path / "first") == files(chain[1].folder)
    # Copies: an edit of a student in place must not reach what is kept.
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "again").rglob("*") if path.is_file())
    # Killed when the round was kept and its checkpoint not yet gone: this one is of no use any more, others may be.
    checkpoints = scratch_folder() / "distil/r1"
    checkpoints.mkdir(parents=True)
    address = round_address(settings, plan, samplers, clips)
    (checkpoints / f"checkpoint-{address[:16]}.pt").touch()
    (checkpoints / "checkpoint-other.pt").touch()
    run_round(settings, plan, idle, clips, tmp_path / "again")
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-other.pt"]
    with pytest.raises(AssertionError, match="loaded"):
        other = settings.model_copy(update={"distillation": settings.distillation.model_copy(update={"seed": 1})})
        run_round(other, plan, idle, clips, tmp_path / "again")


def test_a_damaged_round_is_trained_again(chain, settings, samplers, clips, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    plan = plan_round(settings, "r1", chain[0], order(tmp_path, "mid_0"))
    run_round(settings, plan, samplers, clips, tmp_path / "first")
    weights = next((tmp_path / "scratch/rounds").rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)  # through the link: what a careless edit of the first student does
    run_round(settings, plan, samplers, clips, tmp_path / "again")
    assert "a kept round is damaged, and trained again" in caplog.text
    assert files(tmp_path / "again") == files(chain[1].folder) != files(tmp_path / "first")
    run_round(settings, plan, Unloaded(settings, samplers.record), clips, tmp_path / "third")
    assert files(tmp_path / "third") == files(chain[1].folder)


OF_DISTILLATION: dict[str, Any] = {
    "batch": 4, "accumulate": 2, "learning_rate": 0.002, "warmup": 1, "decay": "constant", "clip_norm": 2.0,
    "ema": 0.5, "task_weight": 1.0, "output_weight": 2.0, "feature_weight": 2.0, "inputs": "teacher",
    "trainable": ["mid_0"], "precision": "bf16", "explode": 50.0, "weight_decay": 0.1, "caption_dropout": 0.5,
    "validation": 1, "seed": 1, "objective": "endpoint", "last_steps": 1, "endpoint_clips": 3, "compare": "v",
    "timesteps": "sampler",
}  # fmt: skip


def test_an_address_holds_all_that_a_round_depends_on(settings, samplers, clips, chain, tmp_path, monkeypatch) -> None:
    plan = plan_round(settings, "r1", chain[0], order(tmp_path, "mid_0"))

    def address(chosen=settings, plan=plan, record=samplers.record, clips=clips) -> str:
        return round_address(chosen, plan, Samplers(chosen, record), clips)

    def changed(section: str, **changes) -> Settings:
        return settings.model_copy(update={section: getattr(settings, section).model_copy(update=changes)})

    assert set(OF_DISTILLATION) == set(Distillation.model_fields) - {"checkpoint_every", "steps", "budget"}
    assert address(changed("distillation", checkpoint_every=7)) == address()
    assert address(changed("teacher", base="elsewhere")) == address(), "what is computed, not where it lies"
    write_table(tmp_path / "other.parquet", "clips", read_frame(clips, "clips").iloc[:2])
    student = chain[1]
    others = [
        *(address(changed("distillation", **{name: value})) for name, value in OF_DISTILLATION.items()),
        address(changed("sampling", steps=3)),
        address(changed("sampling", threads=2)),
        address(changed("prompts", negative="blurred")),
        address(changed("teacher", dtype="bfloat16"), record=replace(samplers.record, dtype="bfloat16")),
        address(plan=replace(plan, steps=3)),
        address(plan=replace(plan, name="r3")),
        address(plan=replace(plan, removed=("up_0_0",))),
        address(plan=replace(plan, previous=student)),
        address(plan=replace(plan, previous=replace(student, weights="other"))),
        address(plan=replace(plan, previous=replace(student, steps=7))),
        address(changed("distillation", budget=Budget(total=9)), plan=replace(plan, steps=None)),
        address(record=replace(samplers.record, sha256="other")),
        address(clips=tmp_path / "other.parquet"),
    ]
    for name, other in (("code_address", lambda *roots: "other"), ("library_versions", lambda: {"torch": "other"})):
        with monkeypatch.context() as patch:
            patch.setattr(rounds, name, other)
            others.append(address())
    assert len({address(), *others}) == 1 + len(others)
    # A budget of its own that is the setting's is no other round; and with its own it has no part in the total.
    assert address(plan=replace(plan, steps=None)) == address()
    assert address(changed("distillation", budget=Budget(total=9))) == address()


def test_an_order_must_contain_what_is_gone(settings, chain, tmp_path) -> None:
    with pytest.raises(LeanmotionError, match=r"order\.json: lacks mid_0, deleted in r1: `dvc repro rank`"):
        plan_round(settings, "r3", chain[1], order(tmp_path, "up_0_0", "up_0_1", "up_1_0"))


def test_orders_that_are_none(settings, base, tmp_path) -> None:
    with pytest.raises(LeanmotionError, match=r"nowhere\.json: no such file"):
        plan_round(settings, "r1", base, tmp_path / "nowhere.json")
    with pytest.raises(LeanmotionError, match=r"teacher\.blocks has no mid_7"):
        plan_round(settings, "r1", base, order(tmp_path, "mid_0", "mid_7"))
    for text in ("", "{}", "[]", '{"removed": 5}', '{"removed": [[]]}', "\x00"):
        (tmp_path / "order.json").write_text(text)
        with pytest.raises(LeanmotionError, match=r"order\.json: corrupt"):
            plan_round(settings, "r1", base, tmp_path / "order.json")


def test_students_that_are_none(tmp_path) -> None:
    with pytest.raises(LeanmotionError, match=r"student\.json: no such file"):
        Student.read(tmp_path)
    for text in (
        "", "[]", "{}", '{"round": "r1", "weights": "a"}', '{"round": "r1", "weights": "a", "removed": 5}',
        '{"round": "r1", "weights": "a", "removed": []}',
        '{"round": "r1", "weights": "a", "removed": [], "steps": "x"}',
    ):  # fmt: skip
        (tmp_path / "student.json").write_text(text)
        with pytest.raises(LeanmotionError, match="corrupt"):
            Student.read(tmp_path)


def test_an_altered_student_is_refused(chain, samplers, tmp_path) -> None:
    import shutil

    shutil.copytree(chain[1].folder, tmp_path / "r1")
    weights = next((tmp_path / "r1" / "adapter").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(LeanmotionError, match="cut short or altered"):
        student_unet(samplers, Student.read(tmp_path / "r1"))


@pytest.mark.numeric
def test_the_teachers_own_clips(settings, samplers, tmp_path) -> None:
    """Through the store: a second writing draws nothing; requests are apart from those that are evaluated."""
    own = tiny_settings(_folders(settings), clips={"source": "teacher", "count": 3})
    drawing = Samplers(own, samplers.record)
    asked = training_rows(own.prompts, own.clips)
    write_table(tmp_path / "prompts/train.parquet", "prompts", asked)
    assert write_clips_of(own, drawing, tmp_path / "a", prompts=tmp_path / "prompts")[0] == 3
    table = read_frame(tmp_path / "a", "clips")
    assert table["caption"].tolist() == [row["prompt"] for row in asked]
    assert table["source"].tolist() == ["teacher"] * 3

    class Idle(Samplers):
        def __call__(self, variant):
            raise AssertionError("drawn again")

    write_clips_of(own, Idle(own, samplers.record), tmp_path / "b", prompts=tmp_path / "prompts")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_clips_without_a_place_to_come_from(settings, samplers, tmp_path) -> None:
    for changes, match in (
        ({"clips": {"source": "folder"}}, r"clips\.path is .*builtin/none.*: name the folder of videos"),
        ({"sampling": {"width": 40}}, r"sprites are square"),
    ):
        with pytest.raises(LeanmotionError, match=match):
            write_clips_of(tiny_settings(_folders(settings), **changes), samplers, tmp_path / "a")
        assert not list(tmp_path.iterdir())


def _units(samplers):
    from leanmotion.model.units import list_units

    found = list_units(samplers.pipeline.unet, "temporal_transformer")
    assert [unit.id for unit in found] == BLOCKS
    return found


def _folders(settings):
    from types import SimpleNamespace

    return SimpleNamespace(base=settings.teacher.base, adapter=settings.teacher.adapter)


@pytest.mark.parametrize("way", [{}, {"inputs": "student"}, {"objective": "endpoint", "endpoint_clips": 5}])
def test_kill_9_at_random_moments_of_a_round(way, settings, samplers, clips, base, tmp_path) -> None:
    """The short form of `benchmarks/kills.py`: forked, so that nothing is imported and loaded again."""
    import os
    import random
    import shutil
    import signal
    import time

    long = tiny_settings(
        _folders(settings),
        distillation={"steps": 12, "checkpoint_every": 1, "feature_weight": 1.0, "validation": 2, **way},
    )
    assert samplers.pipeline  # before any fork
    plan = plan_round(long, "r1", base, order(tmp_path, "mid_0"))
    start = time.monotonic()
    run_round(long, plan, samplers, clips, tmp_path / "whole")
    took = time.monotonic() - start

    moments = random.Random(0)
    for number in range(2):
        # A finished round that was kept would end the next at once; the teacher's clips are drawn anew, too.
        for kept in ("rounds", "teacher-clips"):
            shutil.rmtree(scratch_folder() / kept)
        child = os.fork()
        if child == 0:
            try:
                run_round(long, plan, samplers, clips, tmp_path / f"{number}")
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.2, 0.8) * took)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        run_round(long, plan, samplers, clips, tmp_path / f"{number}")
        assert files(tmp_path / f"{number}") == files(tmp_path / "whole")
