"""Delete a round's blocks from the previous round's student, then distil the rest from the original."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.distillation.rounds import run_round
from leanmotion.model.pruned_adapter import read_pruned_config
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student, plan_round
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.settings import load_settings


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
    evidence = read_pruned_config(out / "adapter")["evidence"]
    note = ""
    if "distance_before" in evidence:
        before, after = evidence["distance_before"], evidence["distance_after"]
        kept = "the trained weights are kept" if after < before else "left untrained"
        note = f"drawn clips' distance to the teacher's {before:.3g} before, {after:.3g} after: {kept}"
    terminal.losses(name, rows, note)


if __name__ == "__main__":
    stage.run(main, spread=True, float64=True)
