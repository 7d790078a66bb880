"""Inspect the teacher: one row per unit at three granularities, and its weights by SHA-256."""

from pathlib import Path

from leanmotion.cost.inspection import inspect_teacher
from leanmotion.model.student import Student
from leanmotion.pipeline import stage
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_table


def main(
    params: Path = Path("params.yaml"),
    units: Path = Path("data/units.parquet"),
    teacher: Path = Path("data/teacher.json"),
    base_student: Path = Path("data/students/base"),
) -> None:
    """Refuse a teacher whose blocks or sha256 differ from the settings; record what later stages hang on."""
    record, rows = inspect_teacher(load_settings(params))
    write_table(units, "units", rows)
    Student(base_student, "base", record.sha256, ()).write()
    record.write(teacher)
    print(f"{len(rows)} units in {record.motion_parameters:,} motion parameters; teacher sha256 {record.sha256}")


if __name__ == "__main__":
    stage.run(main)
