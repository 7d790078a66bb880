"""The deletion list of a round: the first ranking's, or one made anew on the previous round's student."""

from pathlib import Path
from typing import Annotated

import typer

from leanmotion.pipeline import stage
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame


def main(
    name: Annotated[str, typer.Option("--round", help="a round of `rounds`")],
    previous: Annotated[Path, typer.Option(help="the student's folder that the round starts from")],
    order: Annotated[Path, typer.Option(help="the round's list by the first ranking")],
    out: Annotated[Path, typer.Option(help="the deletion list to write")],
    params: Path = Path("params.yaml"),
    prompts: Path = Path("data/prompts"),
    teacher: Path = Path("data/teacher.json"),
    units: Path = Path("data/units.parquet"),
    profile: Path = Path("data/profile.parquet"),
) -> None:
    """With `ranking.rerank`, score the blocks that the previous student still has; else, or if named, copy the list."""
    settings, given = load_settings(params), read_record(order, made_by="dvc repro rank")
    if not settings.ranking.rerank or given.get("named"):
        write_record(out, given)
        return
    # Only now: libraries that take seconds to import.
    from leanmotion.features.embedding import open_extractor
    from leanmotion.model.samplers import Samplers
    from leanmotion.model.student import Student, plan_round
    from leanmotion.model.teacher import TeacherRecord
    from leanmotion.ranking.reranking import keeps_its_order, reranked, scores_on

    student = Student.read(previous)
    if keeps_its_order(settings, student):
        write_record(out, given)
        return
    # How many blocks go is the first list's; which ones beyond the student's own is open.
    plan = plan_round(settings, name, student, order, again=True)
    samplers = Samplers(settings, TeacherRecord.read(teacher), [student])
    savings = read_frame(profile, "profile").set_index("variant")["saving"].to_dict()
    scores = scores_on(
        student, settings, samplers, open_extractor(settings), prompts=prompts, units=read_frame(units, "units"),
        savings=savings,
    )  # fmt: skip
    write_record(out, reranked(plan, scores, settings.teacher.blocks))
    ordered = sorted(scores, key=lambda block: scores[block])
    print(f"left in {student.round}, least important first:", " ".join(f"{b} {scores[b]:.3g}" for b in ordered))


if __name__ == "__main__":
    stage.run(main, float64=True)
