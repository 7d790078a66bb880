"""Tiny random models of the real topology, and the folders that people keep such models in."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

TEXT_WIDTH = 16
TEXT_LENGTH = 12
START, END = "<|startoftext|>", "<|endoftext|>"

TOPOLOGIES = {
    # SD 1.5's: three cross-attention levels and a plain one; 21 motion blocks.
    4: {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (8, 8, 16, 16),
    },
    2: {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
    },
}


def skip_without_bfloat16_attention() -> None:
    """Skip where torch itself cannot: told to take ATen's older kernels, on a processor with AMX (LOG.md)."""
    query = torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16)
    try:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    except RuntimeError as error:
        if "pack_vnni2 is only supported when avx512 is supported" not in str(error):
            raise
        pytest.skip("torch: no attention in bfloat16 by ATen's older kernels on a processor with AMX")


def seeded(seed: int, make: Callable):
    """What `make` returns with torch's global generator seeded; the generator is then put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def make_unet2d(levels: int = 4, layers: int = 2, seed: int = 0):
    from diffusers import UNet2DConditionModel

    def make():
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=layers,
            norm_num_groups=4,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=2,  # diffusers reads it as the number of heads, as in SD 1.5's own config
            **TOPOLOGIES[levels],
        )

    return seeded(seed, make).eval()


def make_adapter(levels: int = 4, layers: int = 2, seed: int = 1, mid: bool = True):
    """Random, `proj_out` too: nothing is the identity until something is removed."""
    from diffusers import MotionAdapter

    def make():
        return MotionAdapter(
            block_out_channels=TOPOLOGIES[levels]["block_out_channels"],
            motion_layers_per_block=layers,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=16,
            use_motion_mid_block=mid,
        )

    return seeded(seed, make).eval()


def make_tokenizer(folder: Path):
    """CLIP's tokenizer, of single letters: any ASCII caption works, each letter a token."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.!?'-"
    tokens = [*letters, *(letter + "</w>" for letter in letters), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def write_teacher(folder: Path, levels: int, layers: int) -> SimpleNamespace:
    """A base pipeline and a motion adapter, of random weights, as two folders in diffusers' format."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = make_tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    def make_vae():
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore
            up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore
            block_out_channels=(8, 8, 8),  # three levels: a factor of 4  # pyright: ignore
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        )

    pipeline = StableDiffusionPipeline(
        vae=seeded(2, make_vae),
        text_encoder=seeded(3, lambda: CLIPTextModel(text)),
        tokenizer=tokenizer,
        unet=make_unet2d(levels, layers),
        scheduler=DDIMScheduler(  # pyright: ignore
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "base")
    make_adapter(levels, layers).save_pretrained(folder / "adapter")
    return SimpleNamespace(base=folder / "base", adapter=folder / "adapter")


def micro_unet(seed: int = 0, **options: Any) -> Any:
    """Two levels, one layer each: motion modules in down_0_0, down_1_0, mid_0, up_0_0, up_0_1, up_1_0, up_1_1."""
    from diffusers.models.unets.unet_motion_model import UNetMotionModel

    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return UNetMotionModel(
            sample_size=4,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            num_attention_heads=2,
            motion_num_attention_heads=2,
            motion_max_seq_length=4,
            **options,
        ).eval()
