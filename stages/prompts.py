"""Draw up the prompt tables, one a split: prompt, negative prompt and two seeds for every clip."""

from pathlib import Path

from leanmotion import stage
from leanmotion.prompts import SPLITS, prompt_rows
from leanmotion.settings import load_settings
from leanmotion.tables import write_table


def main(params: Path = Path("params.yaml"), out: Path = Path("data/prompts")) -> None:
    """Write the prompts of the splits rank, select and report: a larger one reruns what uses it, and nothing else."""
    settings = load_settings(params).prompts
    for split in SPLITS:
        write_table(out / f"{split}.parquet", "prompts", prompt_rows(settings, split))


if __name__ == "__main__":
    stage.run(main)
