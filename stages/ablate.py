"""Generate the rank split's videos with one block removed: same prompts and seeds as the original's."""

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
    block: Annotated[str, typer.Option(help="the block to remove, as up_3_2")],
    out: Annotated[Path, typer.Option(help="the video table to write")],
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
) -> None:
    """Draw the clips of one single-block removal, resuming from the chunk store."""
    settings = load_settings(params)
    variants = Variants(settings, TeacherRecord.read(teacher))

    def takes(name: str) -> list[Take]:
        return [Take(name, variants.teacher([name]), "rank")]

    render(
        takes(block), out, prompts=prompts, settings=settings, samplers=variants.samplers(), label=f"without {block}",
        stage=f"ablate@{block}", siblings=lambda: {f"ablate@{name}": takes(name) for name in settings.teacher.blocks},
    )  # fmt: skip
    show_takes(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
