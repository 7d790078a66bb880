"""Generate what confirms the choice: the chosen student's videos, or the original's, under seeds of their own."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.errors import LeanmotionError
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.model.variants import Variants, under_other_norm
from leanmotion.pipeline import stage
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.videos.listing import show_takes
from leanmotion.videos.rendering import Take, render

TAKES = {"original_a": ("full", "a"), "original_b": ("full", "b"), "student_b": ("distilled", "b")}
OTHER_NORM = "other_norm"
"""All three under the motion norm that is not the teacher's, on fewer sets."""


def main(
    take: Annotated[str, typer.Option(help=", ".join(TAKES))],
    out: Annotated[Path, typer.Option(help="the video table to write")],
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
    chosen: Path = Path("data/chosen"),
    students: Path = Path("data/students"),
) -> None:
    """Draw the sets that confirm, resuming from the chunk store; nothing where no round was chosen.

    The original's hang on whether any round was chosen, the student's on which.
    """
    if take not in (names := [*TAKES, OTHER_NORM]):
        raise LeanmotionError(f"--take {take}: name one of {', '.join(names)}")
    settings, record = load_settings(params), TeacherRecord.read(teacher)
    variants, others = Variants(settings, record), Variants(*under_other_norm(settings, record))
    any_chosen = read_record(chosen / "any.json", made_by="dvc repro select")["deleted"]
    student = _chosen(chosen, students)
    samplers = {one.record.sha256: one.samplers([student]) for one in (variants, others)}

    def takes(name: str) -> list[Take]:
        splits, drawn, asked = settings.prompts.confirm_splits, variants, [name]
        if name == OTHER_NORM:
            splits, drawn, asked = splits[: settings.prompts.confirm_other_norm], others, list(TAKES)
        named = {"full": drawn.teacher(), "distilled": drawn.student(student)}
        return [
            Take(what, named[what], split, seeds) for what, seeds in (TAKES[one] for one in asked) for split in splits
        ]

    if not any_chosen:
        print("no round was chosen: nothing to confirm, nothing is drawn")
    render(
        takes(take) if any_chosen else [], out, prompts=prompts, settings=settings,
        samplers=lambda variant: samplers[variant.weights.partition("+")[0]](variant),
        label=f"to confirm, {take.replace('_', ' ')}", stage=f"confirm_videos@{take}",
        siblings=lambda: {f"confirm_videos@{name}": takes(name) for name in names},
    )  # fmt: skip
    show_takes(out)


def _chosen(chosen: Path, students: Path) -> Student:
    """The chosen round's student, which must be the one that was chosen."""
    wanted = Student.read(chosen)
    student = Student.read(students / wanted.round)
    if (student.weights, student.removed) != (wanted.weights, wanted.removed):
        raise LeanmotionError(f"{student.folder}: is not the student that was chosen: `dvc repro select`")
    return student


if __name__ == "__main__":
    stage.run(main, spread=True)
