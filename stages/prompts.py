"""Draw up the prompt table: prompt, negative prompt and two seeds for every clip of the three splits."""

from pathlib import Path

from leanmotion import stage
from leanmotion.prompts import prompt_rows
from leanmotion.settings import load_settings
from leanmotion.tables import write_table


def main(params: Path = Path("params.yaml"), out: Path = Path("data/prompts.parquet")) -> None:
    """Write the prompts of the splits rank, select and report."""
    write_table(out, "prompts", prompt_rows(load_settings(params).prompts))


if __name__ == "__main__":
    stage.run(main)
