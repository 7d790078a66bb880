"""Measure what every round saves: seconds of a UNet call, interleaved with the original and the ceiling."""

from pathlib import Path

from leanmotion.cost.latency import round_latency_rows
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame, write_table


def main(
    params: Path = Path("params.yaml"),
    teacher: Path = Path("data/teacher.json"),
    students: Path = Path("data/students"),
    profile: Path = Path("data/profile.parquet"),
    out: Path = Path("data/latency.parquet"),
) -> None:
    """Write the latency of the original, of each round's student, and without any motion module."""
    settings = load_settings(params)
    pipeline = Samplers(settings, TeacherRecord.read(teacher)).pipeline
    removed = {name: Student.read(students / name).removed for name in settings.rounds}
    single = read_frame(profile, "profile").set_index("variant")["saving_fraction"].to_dict()
    rows = round_latency_rows(pipeline, settings, removed, single)
    write_table(out, "latency", rows)
    terminal.latency(rows)


if __name__ == "__main__":
    stage.run(main)
