"""A Stable Diffusion 1.5 base and a v2 motion adapter of real size with random weights, as people hold them on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leanmotion.model.original_format import write_original

WIDTHS = {
    # of the UNet's levels and the VAE's, and of the text
    False: ((320, 640, 1280, 1280), (128, 256, 512, 512), 768),
    True: ((32, 32, 64, 64), (32, 32, 32, 32), 64),
}
"""By whether all is small: the same topology, to try on a CPU what is meant for a GPU."""

_BRANCH_ENDS = ("conv2.weight", "proj_out.weight", "to_out.0.weight", "ff.net.2.weight")


def write_teacher(folder: Path, dtype: torch.dtype, device: str, *, small: bool = False) -> Mapping[str, str]:
    """Write `base/` and `mm_sd_v15_v2.safetensors`; no network is asked.

    Args:
        folder: where.
        dtype: of the weights in the files.
        device: where they are drawn.
        small: of small widths.

    Returns:
        Places of both, by the names of settings.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    widths, vae_widths, text = WIDTHS[small]
    levels = len(widths)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(
                sample_size=64, cross_attention_dim=text, attention_head_dim=8, block_out_channels=widths
            ),
            "vae": AutoencoderKL(
                block_out_channels=vae_widths,  # pyright: ignore[reportArgumentType]
                layers_per_block=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
                up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=text,
                    intermediate_size=4 * text,
                    num_hidden_layers=1 if small else 12,
                    num_attention_heads=max(1, text // 64),
                    vocab_size=49408,
                    max_position_embeddings=77,
                )
            ),
        }
        adapter: Any = MotionAdapter(block_out_channels=widths)
        _tame([*parts.values(), adapter])
    StableDiffusionPipeline(
        **{name: part.to(dtype) for name, part in parts.items()},
        tokenizer=_tokenizer(folder / "tokenizer"),
        scheduler=DDIMScheduler(  # pyright: ignore[reportArgumentType]
            beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
        ),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    ).save_pretrained(folder / "base")
    write_original(adapter.to("cpu", dtype), folder / "mm_sd_v15_v2.safetensors")
    return {"base": str(folder / "base"), "adapter": str(folder / "mm_sd_v15_v2.safetensors")}


def _tokenizer(folder: Path) -> Any:
    """CLIP's, of single letters: its vocabulary is of no matter here, and the network is not asked."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789 ,."
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(made))
    return CLIPTokenizer.from_pretrained(folder)


@torch.no_grad()
def _tame(networks: list[Any]) -> None:
    """Random deep networks drift: scaled down at the end of each residual branch, bfloat16 stays finite."""
    for network in networks:
        for name, parameter in network.named_parameters():
            if parameter.ndim >= 2 and name.endswith(_BRANCH_ENDS):
                parameter.mul_(0.3)
