"""Generate a round's videos twice: the same deletion without distillation, and the distilled student."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.model.variants import Variants
from leanmotion.pipeline import stage
from leanmotion.pipeline.settings import load_settings
from leanmotion.videos.listing import show_takes
from leanmotion.videos.rendering import Take, render


def main(
    student: Annotated[Path, typer.Option(help="the round's student folder")],
    out: Annotated[Path, typer.Option(help="the video table to write")],
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
) -> None:
    """Draw the select and report splits with seeds b.

    Seeds b serve both comparisons: with the original under seeds a (the excess over the null) and, clip by clip,
    with the original under seeds b.
    """
    settings = load_settings(params)
    this = Student.read(student)
    variants = Variants(settings, TeacherRecord.read(teacher))
    arms = {"pruned": variants.teacher(this.removed), "distilled": variants.student(this)}
    takes = [Take(arm, variant, split, "b") for split in ("select", "report") for arm, variant in arms.items()]
    label = f"round {this.round}"
    render(takes, out, prompts=prompts, settings=settings, samplers=variants.samplers([this]), label=label)
    show_takes(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
