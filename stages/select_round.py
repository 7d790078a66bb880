"""Choose how far to delete, by the stop rule on the select split; the final figures come from the report split."""

from pathlib import Path
from typing import Any

from leanmotion.evaluation.selection import RoundEvidence, select
from leanmotion.pipeline import stage
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_table
from leanmotion.pipeline.writing import write_text
from leanmotion.ranking.rounding import evaluation_nulls, rounded_row, write_metrics

FINAL = (
    "removed", "parameters", "macs", "videos", "null", "fvd_cross", "fvd_cross_low", "fvd_cross_high", "excess",
    "excess_low", "excess_high", "fvd", "fvd_low", "fvd_high", "kvd", "paired", "motion", "motion_accuracy",
    "motion_accuracy_low", "motion_accuracy_high",
)  # fmt: skip


def main(
    params: Path = Path("params.yaml"),
    evaluation: Path = Path("data/evaluation.parquet"),
    students: Path = Path("data/students"),
    out: Path = Path("data/selection.json"),
    to_confirm: Path = Path("data/chosen"),
    metrics: Path = Path("metrics/selection.json"),
    reason: Path = Path("metrics/selection.txt"),
) -> None:
    """Write the chosen round, the reason in words, and its figures on the report split beside the original's.

    What `confirm` draws hangs on two more files, which another figure or another round's training leaves alone: which
    student was chosen, by its weights' SHA-256, and whether any was.
    """
    rule = load_settings(params).selection
    rows = read_table(evaluation, "evaluation").to_pylist()
    judged = [row for row in rows if row["split"] == "select" and row["arm"] in {"original", "distilled"}]
    evidence = [RoundEvidence.from_row(row) for row in judged]
    chosen = select(evidence, rule.rule, rule.allowance, rule.confident)
    figures: dict[str, Any] = {"round": chosen.round, "rule": chosen.rule}
    kept = dict(figures)
    for arm in ("original", "pruned", "distilled"):
        name = "base" if arm == "original" else chosen.round
        for row in rows:
            if (row["split"], row["round"], row["arm"]) == ("report", name, arm):
                figures |= {f"{arm}_{k}": row[k] for k in FINAL if row[k] is not None}
                kept |= {f"{arm}_{k}": v for k, v in rounded_row(row, FINAL, evaluation_nulls(row)).items()}
    # Export and report read the record, which is verified; the metrics are for eyes and for `dvc metrics diff`.
    write_record(out, {**figures, "reason": chosen.reason, "removed": chosen.removed})
    write_metrics(metrics, kept)
    student = read_record(students / chosen.round / "student.json", made_by="dvc repro")
    write_record(to_confirm / "student.json", student)
    write_record(to_confirm / "any.json", {"deleted": bool(student["removed"])})
    # A sentence is no metric: it makes tables of hundreds of columns.
    write_text(reason, f"{chosen.reason}\nDeleted: {', '.join(student['removed']) or 'nothing'}\n")
    print(chosen.reason)


if __name__ == "__main__":
    stage.run(main)
