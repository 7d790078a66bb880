"""Draw up the prompt tables, one a split or set that confirms: prompt, negative and two seeds for every clip."""

from pathlib import Path

from leanmotion.pipeline import stage
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import write_table
from leanmotion.prompts.splits import SPLITS, prompt_rows, training_rows


def main(params: Path = Path("params.yaml"), out: Path = Path("data/prompts")) -> None:
    """Write the prompts of the splits rank, select and report, of the sets that confirm, and those to train on.

    A larger one reruns what uses it, and nothing else.
    """
    settings = load_settings(params)
    sets = settings.prompts.confirm_splits
    for split in [*SPLITS, *sets]:
        write_table(out / f"{split}.parquet", "prompts", prompt_rows(settings.prompts, split))
    write_table(out / "train.parquet", "prompts", training_rows(settings.prompts, settings.clips))
    for stale in set((out / "confirm").iterdir()) - {out / f"{split}.parquet" for split in sets}:
        stale.unlink()


if __name__ == "__main__":
    stage.run(main)
