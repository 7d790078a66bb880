"""Turn every video of the ranking (original, ablations, probes) into features by the chosen extractor."""

from pathlib import Path

from leanmotion.features.embedding import embed, embedded, open_extractor
from leanmotion.pipeline import stage
from leanmotion.pipeline.processes import ranks
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.settings import load_settings


def main(
    params: Path = Path("params.yaml"),
    videos: Path = Path("data/videos"),
    out: Path = Path("data/features"),
) -> None:
    """Write a feature table per video table; what the settings no longer name is not carried on.

    Of many ranks each computes its share of the tables, and the main one writes them all.
    """
    settings = load_settings(params)
    names = [f"full/{split}_{seeds}" for split in settings.split_counts for seeds in "ab"]
    names += [f"ablate/{block}" for block in settings.teacher.blocks]
    names += [f"probe/{name}" for name in settings.probe.sets]
    extractor, together = open_extractor(settings), ranks()
    ours = together.divide(names)
    progress = Progress("features", len(ours), "table")
    for name in sorted(ours):
        embedded(videos / f"{name}.parquet", extractor)
        progress.update(1)
    progress.close()
    together.wait()
    together.dismiss()
    for name in names:
        embed(videos / f"{name}.parquet", out / f"{name}.parquet", extractor)
    print(f"{len(names)} video tables: {extractor.dimensions} {extractor.name} features a clip")
    wanted = {out / f"{name}.parquet" for name in names}
    for stale in set(out.rglob("*.parquet")) - wanted:
        stale.unlink()


if __name__ == "__main__":
    stage.run(main, spread=True)
