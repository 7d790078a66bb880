"""Generate a round's videos twice: the same deletion without distillation, and the distilled student."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from leanmotion.errors import LeanmotionError
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
    variants = Variants(settings, TeacherRecord.read(teacher))
    this = Student.read(student)
    students = [this]
    for other in sorted(set(student.parent.iterdir()) - {student}):
        # To draw ahead for: rounds that are there and whole. Whether they are asked for is for DVC to say.
        with suppress(LeanmotionError):
            students.append(Student.read(other))
    render(
        _takes(variants, this), out, prompts=prompts, settings=settings, samplers=variants.samplers(students),
        label=f"round {this.round}", stage=f"render@{student.name}",
        siblings=lambda: {f"render@{one.round}": _takes(variants, one) for one in students if not one.is_teacher},
    )  # fmt: skip
    show_takes(out)


def _takes(variants: Variants, student: Student) -> list[Take]:
    arms = {"pruned": variants.teacher(student.removed), "distilled": variants.student(student)}
    return [Take(arm, variant, split, "b") for split in ("select", "report") for arm, variant in arms.items()]


if __name__ == "__main__":
    stage.run(main, spread=True)
