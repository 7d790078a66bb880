"""Evaluate every round, distilled and pruned only: FVD with interval, KVD, paired distance, motion, accuracy, looks."""

from pathlib import Path
from typing import Any

from leanmotion.evaluation.clip_scores import clip_scores, open_clip
from leanmotion.evaluation.evaluation import ORIGINAL, Arm, evaluate_split, metrics_of, with_scores
from leanmotion.evaluation.looks import Looks
from leanmotion.features.embedding import embedded, open_extractor
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.video_tables import find_clips
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline import stage, terminal
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.ranking.rounding import write_metrics


def main(
    params: Path = Path("params.yaml"),
    teacher: Path = Path("data/teacher.json"),
    units: Path = Path("data/units.parquet"),
    students: Path = Path("data/students"),
    originals: Path = Path("data/videos/full"),
    videos: Path = Path("data/videos/rounds"),
    features: Path = Path("data/features"),
    out: Path = Path("data/evaluation.parquet"),
    metrics: Path = Path("metrics/evaluation.json"),
) -> None:
    """Compare each round's videos with the original's on the select and report splits."""
    settings = load_settings(params)
    record = TeacherRecord.read(teacher)
    facts = read_frame(units, "units").set_index("unit")
    extractor, clip = open_extractor(settings), open_clip(settings.evaluation.clip, settings.extractor.batch)
    rows: list[dict[str, Any]] = []
    for split in ("select", "report"):
        read = FeatureSet([features / f"full/{split}_{seeds}.parquet" for seeds in "ab"])
        arms = []
        for name in settings.rounds:
            removed = list(Student.read(students / name).removed)
            theirs = FeatureSet([embedded(videos / f"{name}.parquet", extractor)])
            cost = {
                "parameters": record.parameters - int(facts.loc[removed, "parameters"].sum()),
                "macs": record.macs - int(facts.loc[removed, "macs"].sum()),
            }
            for arm in ("pruned", "distilled"):
                read.adopt(theirs, arm, as_variant=f"{name}/{arm}")
                arms.append(Arm(name, arm, f"{name}/{arm}", len(removed), **cost))
        original = Arm("base", "original", ORIGINAL, 0, record.parameters, record.macs)
        first, *found = evaluate_split(read, original, arms, split, settings.evaluation)
        looks = Looks(find_clips(originals / f"{split}_b.parquet", seeds="b").frames, settings.evaluation.interval)
        of_split = [{**first, **looks.own}]
        for row in found:
            drawn = find_clips(videos / f"{row['round']}.parquet", variant=row["arm"], split=split)
            of_split.append({**row, **looks.beside(drawn.frames)})
        if clip is not None:
            tables = {"base": clip_scores(originals / f"{split}_b.parquet", clip)}
            tables |= {name: clip_scores(videos / f"{name}.parquet", clip) for name in settings.rounds}
            of_split = with_scores(of_split, tables, settings.evaluation.interval)
        rows += of_split
    meta = {**read.meta, "frames": str(settings.sampling.frames), "ddof": "1"}
    write_table(out, "evaluation", rows, meta=meta)
    write_metrics(metrics, metrics_of(rows, "select"))
    terminal.evaluation(rows)


if __name__ == "__main__":
    stage.run(main)
