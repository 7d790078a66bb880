"""Does the choice carry over? The chosen student on another base, at other lengths and steps, with changed motion."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from leanmotion.errors import LeanmotionError
from leanmotion.features.embedding import open_extractor
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_table
from leanmotion.pipeline.writing import write_text
from leanmotion.sprites_training.motion_change import MotionChange
from leanmotion.sprites_training.recipe import Recipe
from leanmotion.sprites_training.second_base import SecondBase
from leanmotion.study.carry_over import SPLIT, carried_over, conditions
from leanmotion.study.carry_over_page import section, with_section
from leanmotion.study.elsewhere import changed_motion, second_base


def main(
    params: Path = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="the flow's folder, after `dvc repro`")] = Path("data"),
    out: Path = Path("metrics/carry_over.parquet"),
    docs: Annotated[Path, typer.Option(help="where results.md is, or goes")] = Path("docs"),
    base_steps: Annotated[int, typer.Option(help="training steps of the second base")] = SecondBase.steps,
    change_steps: Annotated[int, typer.Option(help="training steps of the change of motion")] = MotionChange.steps,
) -> None:
    """Train both, draw, compare; table and page are written after every condition. Kill it and run it again."""
    settings = load_settings(params)
    if settings.extractor.name != "sprites":
        raise LeanmotionError("carry-over: its second base is of the sprites' world: run it on the embedded teacher")
    record = TeacherRecord.read(data / "teacher.json")
    chosen = read_record(data / "selection.json", made_by="dvc repro select")["round"]
    student = Student.read(data / "students" / str(chosen))
    torch.set_num_threads(settings.sampling.threads)
    scratch = scratch_folder() / "carry-over"
    recipe = Recipe(size=settings.sampling.height, frames=settings.sampling.frames)
    base = second_base(settings, record, recipe, SecondBase(steps=base_steps), scratch)
    changed = changed_motion(settings, record, student, recipe, MotionChange(steps=change_steps), scratch)
    planned = conditions(settings, student, int(record.adapter["motion_max_seq_length"]), base, changed)
    extractor, rows = open_extractor(settings), []
    meta = {
        "round": student.round,
        "student_weights": str(read_record(student.adapter / "config.json", made_by="dvc repro")["sha256"]),
        "split": SPLIT,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "teacher_sha256": record.sha256,
        "interval": str(settings.evaluation.interval),
    }
    for row in carried_over(planned, record, extractor, data / "prompts", scratch):
        rows.append(row)
        write_table(out, "carry_over", rows, meta=meta)
        page = docs / "results.md"
        before = page.read_text(encoding="utf-8") if page.is_file() else ""
        write_text(page, with_section(before, section(rows, meta)))
        print(f"{row['condition']}: excess {row['excess']:.1%} ({row['excess_low']:.1%} to {row['excess_high']:.1%})")


if __name__ == "__main__":
    stage.run(main, float64=True)
