"""Does a choice carry over: the second base, the change of motion, the conditions, and what the page says of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from committed import weights
from diffusers import StableDiffusionPipeline
from tiny import BLOCKS, tiny_params, tiny_settings

from leanmotion.cost.inspection import inspect_teacher
from leanmotion.errors import LeanmotionError
from leanmotion.model.pruned_adapter import save_pruned
from leanmotion.model.removal import remove_units
from leanmotion.model.student import Student, network_digest
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline.records import write_record
from leanmotion.pipeline.tables import read_table, write_table
from leanmotion.prompts.splits import prompt_rows
from leanmotion.sprites.renderer import render
from leanmotion.sprites_training.motion_change import MotionChange, add_change, train_motion_change
from leanmotion.sprites_training.recipe import Recipe
from leanmotion.sprites_training.second_base import Look, SecondBase, repainted, train_second_base
from leanmotion.study.carry_over import conditions
from leanmotion.study.carry_over_page import section, section_of, with_section

REMOVED = ("down_0_0", "up_1_1")
SMALL = Recipe(size=16, frames=3, warmup=1)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")


# Another look


def test_a_look_in_closed_form() -> None:
    """Black becomes the ground, white stays white, grey keeps its place between; no edge, no outline."""
    look = Look(saturation=0.5, ground=(0.2, 0.0, 0.4))
    for level in (0, 102, 255):
        found = repainted(np.full((2, 4, 4, 3), level, np.uint8), look)
        wanted = np.round(255 * (np.asarray(look.ground) * (1 - level / 255) + level / 255))
        assert np.abs(found.astype(int) - wanted).max() <= 1  # rounded once more than here


def test_outlines_are_where_brightness_jumps() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[2:6, 2:6] = 255
    look = Look(outline=(0.0, 1.0, 0.0))
    found = repainted(picture[None], look)[0]
    assert (found[2, 2:6] == (0, 255, 0)).all() and (found[1, 2:6] == (0, 255, 0)).all()
    assert (found[3:5, 3:5] == 255).all(), "inside, the shape is itself"
    assert np.abs(found[0, 0] / 255 - look.ground).max() <= 1 / 255


def test_the_look_is_another_one_and_clips_stay_clips() -> None:
    clips = render(["a red ring falls", "a blue square grows"], [1, 2], frames=4, size=32)
    found = repainted(clips, Look())
    assert found.shape == clips.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - clips).mean() > 20


# What is trained


def test_a_second_base_is_other_weights_of_the_same_unet(tmp_path, teacher_folder) -> None:
    first = teacher_folder(levels=2, layers=1).base
    how = SecondBase(steps=2, batch=2, clips_per_caption=1)
    for name in ("one", "two"):
        train_second_base(first, tmp_path / name, SMALL, how, tmp_path / f"scratch-{name}")
    one, two = (
        StableDiffusionPipeline.from_pretrained(tmp_path / name, safety_checker=None) for name in ("one", "two")
    )
    whole = StableDiffusionPipeline.from_pretrained(first, safety_checker=None)
    for part in ("vae", "text_encoder"):
        found, wanted = getattr(one, part).state_dict(), getattr(whole, part).state_dict()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    found, wanted, again = (pipeline.unet.state_dict() for pipeline in (one, whole, two))
    assert found.keys() == wanted.keys() and any(not torch.equal(found[key], wanted[key]) for key in wanted)
    assert all(torch.equal(found[key], again[key]) for key in found), "seeded, so the same twice"


def test_a_change_of_motion_is_low_rank_and_leaves_the_teacher(tmp_path, teacher_folder) -> None:
    settings = tiny_settings(teacher_folder(levels=2, layers=1))
    pipeline: Any = load_pipeline(settings.teacher)
    before = {key: value.clone() for key, value in pipeline.unet.state_dict().items()}
    how = MotionChange(rank=1, steps=3, batch=1, clips_per_caption=1)
    change = train_motion_change(pipeline, SMALL, how, tmp_path)
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    # Two attention layers of four linear ones in every block.
    assert len(change) == len(BLOCKS) * 2 * 4 and change.keys() <= before.keys()
    assert all(torch.linalg.matrix_rank(value) <= 1 for value in change.values())
    assert all(value.abs().max() > 0 for key, value in change.items() if "to_v" in key or "to_out" in key)

    assert add_change(pipeline.unet, change) == len(change)
    key = next(iter(change))
    assert torch.equal(after[key], before[key] + change[key])
    pruned: Any = load_pipeline(settings.teacher).unet
    remove_units(pruned, REMOVED)
    assert add_change(pruned, change) == (len(BLOCKS) - len(REMOVED)) * 2 * 4, "the rest of it finds no place"


# Conditions


def student_of(folder: Path, settings: Any) -> Student:
    unet: Any = load_pipeline(settings.teacher).unet
    remove_units(unet, REMOVED)
    save_pruned(unet, folder / "adapter")
    student = Student(folder, "r2", network_digest(folder / "adapter"), REMOVED)
    student.write()
    return student


def test_one_thing_at_a_time_and_no_longer_than_there_are_positions() -> None:
    settings = tiny_settings(sampling={"frames": 8, "steps": 10, "scheduler": "base"})
    student, other = Student(Path("s"), "r2", "0" * 64, REMOVED), Student(Path("t"), "r2c", "1" * 64, REMOVED)
    found = conditions(settings, student, 12, Path("b"), (Path("a"), other))
    assert [c.name for c in found] == [
        "as judged", "another base", "12 frames", "6 steps", "20 steps", "sampler euler",
        "slower motion, by a low-rank change",
    ]  # fmt: skip
    for condition in found[1:]:
        changed = [
            (section, name)
            for section in ("teacher", "sampling")
            for name, value in getattr(condition.settings, section)
            if value != getattr(getattr(settings, section), name)
        ]
        assert len(changed) == 1, condition.name
    assert [c.student is student for c in found] == [True] * 6 + [False]
    euler = tiny_settings(sampling={"frames": 16, "steps": 6, "scheduler": "euler"})
    names = [c.name for c in conditions(euler, student, 32, Path("b"), (Path("a"), other))]
    assert names[2:-1] == ["12 frames", "20 steps", "sampler ddim"]
    with pytest.raises(LeanmotionError, match="no round was chosen"):
        conditions(settings, Student(Path("s"), "base", "0" * 64, ()), 12, Path("b"), (Path("a"), other))


def test_the_whole_of_it_at_tiny_size(tmp_path, teacher_folder) -> None:
    import runpy

    main = runpy.run_path(str(Path(__file__).parents[2] / "stages/carry_over.py"))["main"]
    raw = tiny_params(
        teacher_folder(levels=2, layers=1), weights("data/extractor"), sampling={"height": 16, "width": 16}
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    settings, data = tiny_settings(teacher_folder(levels=2, layers=1), sampling=raw["sampling"]), tmp_path / "data"
    inspect_teacher(settings)[0].write(data / "teacher.json")
    write_record(data / "selection.json", {"round": "r2"})
    student_of(data / "students/r2", settings)
    write_table(data / "prompts/report.parquet", "prompts", prompt_rows(settings.prompts, "report"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/results.md").write_text("# What the study found\n\nWords.\n")
    out = tmp_path / "carry_over.parquet"
    for _ in range(2):  # again: nothing is trained or drawn anew, and the page has one part still
        main(params=tmp_path / "params.yaml", data=data, out=out, docs=tmp_path / "docs", base_steps=2, change_steps=2)
    rows = read_table(out, "carry_over").to_pylist()
    assert [row["condition"] for row in rows] == [
        "as judged", "another base", "12 frames", "16 frames", "6 steps", "20 steps", "sampler euler",
        "slower motion, by a low-rank change",
    ]  # fmt: skip
    assert [row["frames"] for row in rows] == [3, 3, 12, 16, 3, 3, 3, 3]
    assert all(row["null"] > 0 and row["fvd"] > 0 and row["removed"] == 2 for row in rows)
    assert len({row["fvd"] for row in rows}) == len(rows), "each condition drew clips of its own"
    text = (tmp_path / "docs/results.md").read_text()
    assert text.startswith("# What the study found\n\nWords.\n") and text.count("## Does it carry over?") == 1


# The page


def row(condition: str, excess: float, low: float, high: float) -> dict[str, Any]:
    three = {f"fvd{end}": 4.0 for end in ("", "_low", "_high")}
    read = {f"{whose}{head}_accuracy": 0.5 for whose in ("", "original_") for head in ("colour", "shape", "motion")}
    return {
        "condition": condition, "frames": 8, "steps": 10, "scheduler": "base", "removed": 17, "videos": 48, "null": 7.5,
        "excess": excess, "excess_low": low, "excess_high": high, **three, **read,
    }  # fmt: skip


META = {"round": "r17", "split": "report", "extractor": "sprites", "interval": "0.9", "teacher_sha256": "a" * 64}


def test_the_page_says_where_it_is_dearer() -> None:
    rows = [row("as judged", 0.2, 0.0, 0.4), row("another base", 0.9, 0.5, 1.3), row("6 steps", 0.5, 0.3, 0.7)]
    text = section(rows, META)
    assert "beyond both intervals, in 1 of 2: another base." in text
    assert "| another base | 8 | 10 | 7.5 | 90% (50% to 130%) | 4 (4 to 4) | 50%, 50% | 50%, 50% | 50%, 50% |" in text
    assert "In none of 1 other conditions" in section([rows[0], rows[2]], META)
    assert "interval" not in section(rows[:1], META).split("|\n")[-1], "nothing to compare yet"
    unread = section([{**rows[0], "motion_accuracy": None, "original_motion_accuracy": None}], META)
    assert "| -, - |" in unread


def test_its_part_of_the_page_stays_where_it_is() -> None:
    part, other = section([row("as judged", 0.2, 0.0, 0.4)], META), section([row("as judged", 0.3, 0.0, 0.4)], META)
    page = "# What the study found\n\nWords.\n"
    whole = with_section(page, part)
    assert section_of(whole) == part and whole.startswith(page)
    assert with_section(whole, other) == with_section(page, other)
    assert with_section("# New\n", section_of(whole)) == with_section("# New\n", part)
    assert section_of(page) == "" and with_section(page, "") == page
    followed = with_section(whole + "\nMore.\n", other)
    assert followed.endswith("\nMore.\n") and section_of(followed) == other
