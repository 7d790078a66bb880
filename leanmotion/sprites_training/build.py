"""The whole teacher: from nothing to a base pipeline folder and a motion adapter folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel, UNetMotionModel
from transformers import CLIPTextModel, CLIPTokenizer

from leanmotion.pipeline.processes import ranks
from leanmotion.sprites.world import ANY_SHAPE, all_captions, training_captions
from leanmotion.sprites_training.autoencoder import encode, rendered_clips, train_autoencoder
from leanmotion.sprites_training.joint import train_joint
from leanmotion.sprites_training.networks import CaptionedVideo, new_adapter, new_scheduler, new_unet, plain_unet
from leanmotion.sprites_training.recipe import Recipe
from leanmotion.sprites_training.vocabulary import new_text_encoder, new_tokenizer


def save_base(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    recipe: Recipe,
) -> None:
    """Write a Stable Diffusion pipeline folder, float32 safetensors."""
    # diffusers annotates its optional parts as required.
    absent: Any = None
    scheduler: Any = new_scheduler(recipe)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=absent,
        feature_extractor=absent,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    # The form in which older transformers hold CLIP's tokenizer, next to tokenizer.json.
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    # diffusers notes where a part was loaded from: a path of the training machine, and part of the folder's hash.
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")


def save_adapter(folder: Path, unet: UNetMotionModel) -> None:
    """Write the motion modules as a `MotionAdapter` folder."""
    unet.save_motion_modules(str(folder))


def train_teacher(base: Path, adapter: Path, recipe: Recipe, scratch: Path) -> None:
    """Train the autoencoder, then pictures and motion together, and write both folders.

    Every part goes on from its checkpoint in `scratch`; the held-out captions are never rendered.
    """
    captions = training_captions()
    vae = train_autoencoder(captions, recipe, scratch)
    latents, repeated = cached_latents(vae, captions, recipe, scratch)
    tokenizer = new_tokenizer([*all_captions(), f"{ANY_SHAPE} {ANY_SHAPE}s"], recipe)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(recipe.seed + 1)
        unet = UNetMotionModel.from_unet2d(new_unet(recipe), new_adapter(recipe))
        assert isinstance(unet, UNetMotionModel)
        networks = CaptionedVideo(new_text_encoder(tokenizer, recipe), unet)
    networks = train_joint(latents, repeated, tokenizer, networks, recipe, scratch)
    ranks().dismiss()
    save_base(base, vae, networks.text_encoder, tokenizer, plain_unet(networks.unet, recipe), recipe)
    save_adapter(adapter, networks.unet)


def cached_latents(
    vae: AutoencoderKL, captions: list[str], recipe: Recipe, scratch: Path
) -> tuple[torch.Tensor, list[str]]:
    """Scaled latents float32 [clips, frames, 4, h, w] of the training clips, and the caption of each."""
    path = scratch / "latents.pt"
    repeated = [caption for caption in captions for _ in range(recipe.clips_per_caption)]
    found = path.exists()
    ranks().wait()  # or one rank would find what another is about to write
    if found:
        return torch.load(path, weights_only=True), repeated
    parts = []
    for i, caption in enumerate(captions):
        first_seed = 1_000_000 + i * recipe.clips_per_caption
        clips, _ = rendered_clips([caption], recipe.clips_per_caption, first_seed, recipe)
        parts.append(encode(vae, clips))
    latents = torch.cat(parts)
    if ranks().main:
        torch.save(latents, path)
    return latents, repeated
