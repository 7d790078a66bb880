"""Training of the reader, on rendered clips, on their reconstructions, and on frames that do not belong together."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from leanmotion.features.sprites_reader import SpriteReader
from leanmotion.sprites.world import NO_MOTION, all_captions, caption_labels, label_names
from leanmotion.sprites_training.autoencoder import decode, encode, low_precision, rendered_clips, to_unit
from leanmotion.sprites_training.loop import train
from leanmotion.sprites_training.recipe import Recipe

HEADS: tuple[str, ...] = ("colour", "shape", "motion")


def reconstructed(vae: AutoencoderKL, clips: Tensor, generator: torch.Generator, noise: float) -> Tensor:
    """uint8 clips through the autoencoder with some noise on the latents, as a generator leaves it."""
    parts: list[Tensor] = []
    for part in clips.split(32):
        latents = encode(vae, part)
        strength = noise * torch.rand(len(part), 1, 1, 1, 1, generator=generator)
        latents = latents + strength * torch.randn(latents.shape, generator=generator)
        parts.append(((decode(vae, latents) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts)


def disordered(clips: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """Frames that show a caption's things but no motion of the world.

    Args:
        clips: one clip [frames, 3, h, w].
        partners: other clips of the same caption [m, frames, 3, h, w].
        generator: chooses among frames of unrelated clips, a still, a shuffle and a reversal.

    Returns:
        [frames, 3, h, w].
    """
    frames = len(clips)
    kind = int(torch.randint(5, (), generator=generator))
    if kind == 2:
        return clips[int(torch.randint(frames, (), generator=generator))].expand_as(clips)
    if kind == 3:
        return clips[torch.randperm(frames, generator=generator)]
    if kind == 4:
        return clips.flip(0)
    # Unrelated pictures at unrelated times. At the times of a clip they would show its motion, if a wobbling one: paths
    # differ little.
    which = torch.randint(len(partners), (frames,), generator=generator)
    return partners[which, torch.randint(frames, (frames,), generator=generator)]


def train_reader(vae: AutoencoderKL, recipe: Recipe, scratch: Path) -> SpriteReader:
    """Train on clips of all captions; what is measured later are generated clips and freshly rendered ones."""
    captions = all_captions()
    generator = torch.Generator().manual_seed(recipe.seed + 3)
    per_caption = recipe.reader_clips_per_caption
    plain, _ = rendered_clips(captions, per_caption, 5_000_000, recipe)
    again = plain.unflatten(0, (len(captions), per_caption))[:, : per_caption // 2].flatten(0, 1)
    soft = reconstructed(vae, again, generator, recipe.reader_latent_noise)
    # [captions, clips of the caption, frames, 3, h, w]: rendered ones first.
    bank = torch.cat([c.unflatten(0, (len(captions), -1)) for c in (plain, soft)], 1)
    labels = torch.tensor([[caption_labels(caption)[head] for head in HEADS] for caption in captions])
    none = label_names()["motion"].index(NO_MOTION)

    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(recipe.seed + 4)
        model = SpriteReader(label_names(), recipe.reader_width, recipe.reader_features, recipe.size)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        n = recipe.reader_batch
        caption = torch.randint(len(captions), (n,), generator=generator)
        clip = torch.randint(bank.shape[1], (n,), generator=generator)
        frames, target = bank[caption, clip].clone(), labels[caption].clone()
        for i in range(n // 4):
            c, k = int(caption[i]), int(clip[i])
            same_look = slice(0, per_caption) if k < per_caption else slice(per_caption, None)
            frames[i] = disordered(bank[c, k], bank[c, same_look], generator)
            target[i, HEADS.index("motion")] = none
        x = to_unit(frames)
        strength = 0.1 * torch.rand(n, 1, 1, 1, 1, generator=generator)
        x = (x + strength * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
        with low_precision():
            _, logits = model(x)
        heads = [F.cross_entropy(logits[head].float(), target[:, i]) for i, head in enumerate(HEADS)]
        # Shape is the hardest to read: it counts twice.
        return torch.stack(heads).sum() + heads[HEADS.index("shape")]

    average = train(
        "reader", model, recipe.reader_rate, loss, steps=recipe.reader_steps, recipe=recipe, scratch=scratch
    )
    assert isinstance(average, SpriteReader)
    return average


@torch.no_grad()
def accuracy(reader: SpriteReader, recipe: Recipe, per_caption: int = 8) -> dict[str, float]:
    """Head name -> share of freshly rendered clips (of all captions, with seeds that no training uses) read rightly."""
    captions = all_captions()
    right: dict[str, int] = dict.fromkeys(HEADS, 0)
    for i, caption in enumerate(captions):
        clips, _ = rendered_clips([caption], per_caption, 9_000_000 + i * per_caption, recipe)
        _, logits = reader(to_unit(clips))
        for head, label in caption_labels(caption).items():
            right[head] += int((logits[head].argmax(1) == label).sum())
    return {head: count / (len(captions) * per_caption) for head, count in right.items()}
