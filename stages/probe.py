"""Generate the videos of the granularity comparison: several large units gone, against few small ones."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.errors import LeanmotionError
from leanmotion.model.teacher import TeacherRecord
from leanmotion.model.variants import Variants
from leanmotion.pipeline import stage
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame
from leanmotion.probing.probe_sets import probes_of
from leanmotion.videos.listing import show_takes
from leanmotion.videos.rendering import Take, render


def main(
    name: Annotated[str, typer.Option("--set", help="a set of probe.sets")],
    out: Annotated[Path, typer.Option(help="the video table to write")],
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
    similarity: Path = Path("data/similarity.parquet"),
) -> None:
    """Draw the clips of one probe set: its most similar units, random ones and single ones removed."""
    settings = load_settings(params)
    variants = Variants(settings, TeacherRecord.read(teacher))
    rows = read_frame(similarity, "similarity")

    def takes(key: str) -> list[Take]:
        try:
            chosen = settings.probe.sets[key]
        except KeyError:
            known = ", ".join(settings.probe.sets)
            raise LeanmotionError(f"--set {key}: not in params.yaml: name one of {known}") from None
        probes = probes_of(key, chosen, rows, seed=settings.probe.seed)
        count = settings.probe.prompts
        return [Take(probe.name, variants.teacher(probe.units), "rank", count=count) for probe in probes]

    render(
        takes(name), out, prompts=prompts, settings=settings, samplers=variants.samplers(), label=f"probe {name}",
        stage=f"probe@{name}", siblings=lambda: {f"probe@{key}": takes(key) for key in settings.probe.sets},
    )  # fmt: skip
    show_takes(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
