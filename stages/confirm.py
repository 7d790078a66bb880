"""What the chosen round costs, measured anew: the headline, from clips that no choice and no other figure has used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    norm = settings.teacher.motion_norm
    rows = [{**of, "motion_norm": norm, **row} for row in confirm(read, sets, settings.evaluation)]
    kept = {**of, "sets": len(sets), **_figures(rows[0])}
    terminal.confirmed(rows)
    if few := sets[: settings.prompts.confirm_other_norm]:
        elsewhere = {**of, "motion_norm": "frame" if norm == "clip" else "clip"}
        read_there = FeatureSet([embedded(videos / "other_norm.parquet", extractor)])
        there = [{**elsewhere, **row} for row in confirm(read_there, few, settings.evaluation)]
        # Without what captions say: a diff of metrics has to fit a terminal.
        named = {f"other_norm_{k}": v for k, v in _figures(there[0]).items() if "accuracy" not in k}
        kept |= {"other_norm_sets": len(few), **named}
        terminal.confirmed(there)
        rows += there
    meta = {**read.meta, "frames": str(settings.sampling.frames), "ddof": "1", "sets": str(len(sets))}
    write_table(out, "confirm", rows, meta=meta)
    write_metrics(metrics, kept)


def _figures(together: Mapping[str, Any]) -> dict[str, Any]:
    """What git keeps of a row of all sets."""
    figures = [name for name in together if name not in {"round", "removed", "set", "motion_norm"}]
    return rounded_row(together, figures, evaluation_nulls(together))


if __name__ == "__main__":
    stage.run(main)
