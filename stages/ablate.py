"""Generate the rank split's videos with one block removed: same prompts and seeds as the original's."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion import stage, summary
from leanmotion.rendering import Take, render
from leanmotion.settings import load_settings
from leanmotion.teacher import TeacherRecord
from leanmotion.variants import Samplers


def main(
    block: Annotated[str, typer.Option(help="the block to remove, as up_3_2")],
    out: Annotated[Path, typer.Option(help="the video table to write")],
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
) -> None:
    """Draw the clips of one single-block removal, resuming from the chunk store."""
    settings = load_settings(params)
    samplers = Samplers(settings, TeacherRecord.read(teacher))
    take = Take(block, samplers.teacher([block]), "rank")
    render([take], out, prompts=prompts, settings=settings, samplers=samplers, label=f"without {block}")
    summary.videos(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
