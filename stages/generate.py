"""Generate the original module's videos: one split with one of its two seed sets."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion import stage, summary
from leanmotion.rendering import Take, render
from leanmotion.settings import load_settings
from leanmotion.teacher import TeacherRecord
from leanmotion.variants import Samplers


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
    samplers = Samplers(settings, TeacherRecord.read(teacher))
    take = Take("full", samplers.teacher(), split, seeds)
    render([take], out, prompts=prompts, settings=settings, samplers=samplers, label=f"original, {split} {seeds}")
    summary.videos(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
