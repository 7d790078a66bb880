"""What the chosen round costs, measured anew: the headline, from clips that no choice and no other figure has used."""

from pathlib import Path

from leanmotion.evaluation.confirmation import confirm
from leanmotion.features.embedding import embedded, open_extractor
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_table
from leanmotion.ranking.rounding import evaluation_nulls, rounded_row, write_metrics

TAKES = ("original_a", "original_b", "student_b")


def main(
    params: Path = Path("params.yaml"),
    videos: Path = Path("data/videos/confirm"),
    chosen: Path = Path("data/chosen"),
    out: Path = Path("data/confirm.parquet"),
    metrics: Path = Path("metrics/confirm.json"),
) -> None:
    """Compare the chosen student's clips with the original's, in every set; write no row where none was chosen."""
    settings = load_settings(params)
    student = read_record(chosen / "student.json", made_by="dvc repro select")
    of = {"round": student["round"], "removed": len(student["removed"])}
    if not of["removed"]:
        write_table(out, "confirm", [])
        write_metrics(metrics, of)
        print("no round was chosen: there is nothing to confirm")
        return
    extractor, sets = open_extractor(settings), settings.prompts.confirm_splits
    read = FeatureSet([embedded(videos / f"{take}.parquet", extractor) for take in TAKES])
    rows = [{**of, **row} for row in confirm(read, sets, settings.evaluation)]
    meta = {**read.meta, "frames": str(settings.sampling.frames), "ddof": "1", "sets": str(len(sets))}
    write_table(out, "confirm", rows, meta=meta)
    together = rows[0]
    figures = [name for name in together if name not in {*of, "set"}]
    write_metrics(metrics, {**of, "sets": len(sets), **rounded_row(together, figures, evaluation_nulls(together))})
    terminal.confirmed(rows)


if __name__ == "__main__":
    stage.run(main)
