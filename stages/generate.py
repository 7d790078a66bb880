"""Generate the original module's videos: one split with one of its two seed sets."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.model.teacher import TeacherRecord
from leanmotion.model.variants import Variants
from leanmotion.pipeline import stage
from leanmotion.pipeline.settings import load_settings
from leanmotion.videos.listing import show_takes
from leanmotion.videos.rendering import Take, render


def main(
    split: Annotated[str, typer.Option(help="rank, select or report")],
    seeds: Annotated[str, typer.Option(help="a or b")],
    out: Annotated[Path, typer.Option(help="the video table to write")],
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
) -> None:
    """Draw the teacher's clips of a split, resuming from the chunk store."""
    settings = load_settings(params)
    variants = Variants(settings, TeacherRecord.read(teacher))

    def takes(split: str, seeds: str) -> list[Take]:
        return [Take("full", variants.teacher(), split, seeds)]

    render(
        takes(split, seeds), out, prompts=prompts, settings=settings, samplers=variants.samplers(),
        label=f"original, {split} {seeds}", stage=f"generate@{split}_{seeds}",
        siblings=lambda: {f"generate@{name}_{ab}": takes(name, ab) for name in settings.split_counts for ab in "ab"},
    )  # fmt: skip
    show_takes(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
