"""Is this order the right one? Trials of one budget each, their table, and docs/results.md with what they say."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.features.embedding import open_extractor
from leanmotion.influence.tables import interaction_of
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame
from leanmotion.pipeline.writing import write_text
from leanmotion.study.carry_over_page import section_of, with_section
from leanmotion.study.plan import Budget, trials
from leanmotion.study.results_page import figure, page
from leanmotion.study.study import run_study
from leanmotion.study.trial import Bench


def main(
    budget: Annotated[
        Budget, typer.Option(help="small: trains where deletion did harm; full: all, with three seeds")
    ] = Budget.full,
    count: Annotated[int | None, typer.Option(help="blocks deleted; else what `select` chose")] = None,
    params: Path = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="the flow's folder, after `dvc repro`")] = Path("data"),
    out: Path = Path("metrics/study.parquet"),
    docs: Annotated[Path, typer.Option(help="where results.md and results.svg go")] = Path("docs"),
) -> None:
    """Run what is missing; table, page and figure are written after every trial. Kill it and run it again."""
    settings = load_settings(params)
    if count is None:
        count = int(read_record(data / "selection.json", made_by="dvc repro select")["removed"])
    units = read_frame(data / "units.parquet", "units")
    ranking, similarity = (read_frame(data / f"{name}.parquet", name) for name in ("ranking", "similarity"))
    bench = Bench(
        settings,
        Samplers(settings, TeacherRecord.read(data / "teacher.json")),
        open_extractor(settings),
        units=units,
        clips=data / "clips.parquet",
        prompts=data / "prompts",
    )
    interaction = interaction_of(read_frame(data / "interaction.parquet", "interaction"))
    planned = trials(settings, ranking, similarity, units, interaction, count)
    for found in run_study(bench, planned, budget, out, interaction):
        if found.rows:
            results = docs / "results.md"
            carried = section_of(results.read_text(encoding="utf-8")) if results.is_file() else ""
            write_text(results, with_section(page(found.rows, planned[Budget.full], found.meta), carried))
            write_text(docs / "results.svg", figure(found.rows))
            last = found.rows[-1]
            print(f"{len(found.done)} of {len(planned[budget])} trials; {last['order']}: FVD {last['fvd']:.4g}")


if __name__ == "__main__":
    stage.run(main, float64=True)
