"""Train the sprites world's teacher: a base pipeline folder and a motion adapter folder. Frozen: git carries both."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from leanmotion.pipeline import stage
from leanmotion.sprites_training.build import train_teacher
from leanmotion.sprites_training.recipe import Recipe


def main(
    out_base: Annotated[Path, typer.Option(help="Folder of the base pipeline.")] = Path("data/teacher/base"),
    out_adapter: Annotated[Path, typer.Option(help="Folder of the adapter.")] = Path("data/teacher/adapter"),
    scratch: Annotated[Path, typer.Option(help="Checkpoints; a killed run goes on from them.")] = Path(
        ".scratch/sprites"
    ),
) -> None:
    """Train autoencoder, images and motion, in this order; each goes on from its checkpoint."""
    recipe = Recipe()
    torch.set_num_threads(recipe.threads)
    torch.set_flush_denormal(True)
    scratch.mkdir(parents=True, exist_ok=True)
    train_teacher(out_base, out_adapter, recipe, scratch)


if __name__ == "__main__":
    stage.run(main, spread=True)
