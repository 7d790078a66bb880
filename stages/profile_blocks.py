"""Measure what each block costs: its time where it runs, inside UNet calls, and whole calls without any of them."""

from pathlib import Path

from leanmotion.cost.latency import latency_rows
from leanmotion.model.samplers import Samplers
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_table


def main(
    params: Path = Path("params.yaml"),
    teacher: Path = Path("data/teacher.json"),
    out: Path = Path("data/profile.parquet"),
) -> None:
    """Write medians and spread per block, of the full UNet, and of the ceiling: no motion modules at all."""
    settings = load_settings(params)
    pipeline = Samplers(settings, TeacherRecord.read(teacher)).pipeline
    rows = latency_rows(pipeline, settings)
    write_table(out, "profile", rows)
    terminal.latency(rows)


if __name__ == "__main__":
    stage.run(main)
