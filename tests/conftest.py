"""Fixtures: tiny random models of the real topology, and the folders that people keep such models in."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
import torch

# Before any import of leanmotion: under test, shapes and types in signatures are checked at every call.
jaxtyping.install_import_hook("leanmotion", "beartype.beartype")

# Tiny tensors gain nothing from threads, and lose much where cores are shared.
torch.set_num_threads(1)

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


@pytest.fixture(scope="session")
def make_unet():
    """`make_unet(levels=4, layers=2, seed=0, mid=True)` -> a new tiny `UNetMotionModel` with random motion blocks."""
    from diffusers import UNetMotionModel

    def make(levels: int = 4, layers: int = 2, seed: int = 0, mid: bool = True):
        adapter = make_adapter(levels, layers, seed + 1, mid)
        # `from_unet2d` draws weights before it loads them: under a fork, so that no global state moves.
        return seeded(0, lambda: UNetMotionModel.from_unet2d(make_unet2d(levels, layers, seed), adapter)).eval()

    return make


@pytest.fixture
def tiny_unet(make_unet):
    """A tiny `UNetMotionModel` of SD 1.5's topology with a v2 adapter's 21 motion blocks. Yours to change."""
    return make_unet()


@pytest.fixture(scope="session")
def make_inputs():
    """`make_inputs(batch=1, frames=4, size=8, timestep=500, seed=0)` -> keyword arguments of a UNet call."""

    def make(batch: int = 1, frames: int = 4, size: int = 8, timestep: int = 500, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(batch, 5, TEXT_WIDTH, generator=generator)
        return {
            "sample": torch.randn(batch, 4, frames, size, size, generator=generator),
            "timestep": torch.tensor(timestep),
            # Spatial layers see frames as a batch: the text is repeated for each frame, as the pipeline does.
            "encoder_hidden_states": text.repeat_interleave(frames, dim=0),
        }

    return make


@pytest.fixture
def unet_inputs(make_inputs):
    """Keyword arguments of a call: sample [1, 4, 4, 8, 8], timestep, encoder_hidden_states [1 * 4, 5, 16]."""
    return make_inputs()


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """`teacher_folder(levels=4, layers=2)` -> folders `.base` and `.adapter`, written once a session: do not change.

    4 levels and 2 layers have 21 motion blocks (8 x 8 latents or more), 2 levels 11 of them (7 with 1 layer).
    """
    written: dict[tuple[int, int], SimpleNamespace] = {}

    def folder(levels: int = 4, layers: int = 2) -> SimpleNamespace:
        if (levels, layers) not in written:
            path = tmp_path_factory.mktemp(f"teacher_{levels}_{layers}")
            written[levels, layers] = write_teacher(path, levels, layers)
        return written[levels, layers]

    return folder
