"""Train the sprites world's reader, whose pooled features are the embedded FVD extractor. Frozen: git carries it."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL

from leanmotion.pipeline import stage
from leanmotion.pipeline.processes import ranks
from leanmotion.sprites_training.reader_training import accuracy, train_reader
from leanmotion.sprites_training.recipe import Recipe


def main(
    base: Annotated[Path, typer.Option(help="The teacher's base: its autoencoder softens training clips.")] = Path(
        "data/teacher/base"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the reader.")] = Path("data/extractor"),
    scratch: Annotated[Path, typer.Option(help="Checkpoints; a killed run goes on from them.")] = Path(
        ".scratch/sprites"
    ),
) -> None:
    """Train on rendered clips, say how well fresh ones are read, write the folder."""
    recipe = Recipe()
    torch.set_num_threads(recipe.threads)
    torch.set_flush_denormal(True)
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae").eval()
    reader = train_reader(vae, recipe, scratch)
    ranks().dismiss()
    for head, share in accuracy(reader, recipe).items():
        typer.echo(f"{head}: {share:.4f} of fresh clips read rightly")
    reader.save(out)


if __name__ == "__main__":
    stage.run(main, spread=True)
