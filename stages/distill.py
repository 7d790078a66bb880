"""Delete a round's blocks from the previous round's student, then distil the rest from the original."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion import stage
from leanmotion.rounds import plan_round, run_round
from leanmotion.settings import load_settings
from leanmotion.students import Student
from leanmotion.teacher import TeacherRecord
from leanmotion.variants import Samplers


def main(
    name: Annotated[str, typer.Option("--round", help="a round of `rounds`")],
    previous: Annotated[Path, typer.Option(help="the student's folder that the round starts from")],
    order: Annotated[Path, typer.Option(help="the round's deletion list")],
    out: Annotated[Path, typer.Option(help="the student's folder to write")],
    params: Path = Path("params.yaml"),
    teacher: Path = Path("data/teacher.json"),
    clips: Path = Path("data/clips.parquet"),
) -> None:
    """Train one round; a killed round goes on from its last checkpoint."""
    settings = load_settings(params)
    start = Student.read(previous)
    samplers = Samplers(settings, TeacherRecord.read(teacher))
    rows = run_round(settings, plan_round(settings, name, start, order), samplers, clips, out)
    if rows:
        print(f"{name}: loss {rows[0]['total']:.4f} -> {rows[-1]['total']:.4f} in {len(rows)} steps")


if __name__ == "__main__":
    stage.run(main)
