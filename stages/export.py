"""Hand over the chosen round's adapter: pruned, portable (stock MotionAdapter), in the original's keys, for ComfyUI."""

from pathlib import Path

from leanmotion.export.export import export_student
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_table


def main(
    params: Path = Path("params.yaml"),
    teacher: Path = Path("data/teacher.json"),
    selection: Path = Path("data/selection.json"),
    confirmed: Path = Path("data/confirm.parquet"),
    prompts: Path = Path("data/prompts/report.parquet"),
    students: Path = Path("data/students"),
    out: Path = Path("data/export"),
) -> None:
    """Write all forms, each with a card of its own, and check each against the student that was evaluated.

    Cards lead with what `confirm` found, and draw the first prompt of the report split.
    """
    evidence = read_record(selection, made_by="dvc repro select")
    # The first row is of all sets under the norm that was judged, then one a set; none where nothing was chosen.
    if rows := read_table(confirmed, "confirm").to_pylist():
        sets = sum(row["motion_norm"] == rows[0]["motion_norm"] for row in rows) - 1
        figures = {**rows[0], "sets": sets}
        evidence |= {f"confirmed_{name}": value for name, value in figures.items() if value is not None}
    prompt = read_table(prompts, "prompts").to_pylist()[0]["prompt"]
    chosen = Student.read(students / str(evidence["round"]))
    samplers = Samplers(load_settings(params), TeacherRecord.read(teacher), [chosen])
    sizes = export_student(samplers, chosen, evidence, out, prompt=prompt)
    cells = [[str(out / form), f"{size / 1e6:.2f}"] for form, size in sizes.items()]
    terminal.show(f"the adapter of {chosen.round}, in the forms that people load", ["folder", "MB"], cells)


if __name__ == "__main__":
    stage.run(main)
