"""Generate the videos of the granularity comparison: several large units gone, against few small ones."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion import stage, summary
from leanmotion.probing import probes_of
from leanmotion.rendering import Take, render
from leanmotion.settings import load_settings
from leanmotion.tables import read_frame
from leanmotion.teacher import TeacherRecord
from leanmotion.variants import Samplers


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
    samplers = Samplers(settings, TeacherRecord.read(teacher))
    rows = read_frame(similarity, "similarity")
    probes = probes_of(name, settings.probe.sets[name], rows, seed=settings.probe.seed)
    takes = [Take(probe.name, samplers.teacher(probe.units), "rank") for probe in probes]
    render(takes, out, prompts=prompts, settings=settings, samplers=samplers, label=f"probe {name}")
    summary.videos(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
