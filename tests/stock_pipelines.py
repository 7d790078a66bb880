"""A pruned adapter beside its portable form, on one tiny base: what one draws in a pipeline, the other is to draw."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from models import TEXT_WIDTH, seeded
from PIL import Image

from leanmotion.model.pruned_adapter import load_pruned_pipeline, save_portable, save_pruned
from leanmotion.model.removal import remove_units

WHOLE = ["down_0_1", "mid_0", "up_3_2"]
MIXED = [*WHOLE, "down_1_0-block0", "up_0_0-block0-attn1", "up_1_1-block0-attn2", "down_2_0-block0-attn1",
         "down_2_0-block0-attn2"]  # fmt: skip
SIZE = 32
VIDEO = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8)) for i in range(4)]


def write_forms(folder: Path, teacher: SimpleNamespace, removed: list[str]) -> SimpleNamespace:
    """Folders `.pruned` and `.portable` of a teacher's adapter without some units; `.base` as it lies there."""
    adapter = diffusers.MotionAdapter.from_pretrained(teacher.adapter)
    remove_units(adapter, removed)
    return SimpleNamespace(
        base=teacher.base,
        pruned=save_pruned(adapter, folder / "pruned"),
        portable=save_portable(adapter, folder / "portable"),
    )


def pruned(forms: SimpleNamespace, kind: str = "AnimateDiffPipeline", **more: Any) -> Any:
    return load_pruned_pipeline(forms.pruned, base=forms.base, pipeline_class=getattr(diffusers, kind), **more)


def stock(forms: SimpleNamespace, kind: str = "AnimateDiffPipeline", **more: Any) -> Any:
    """The portable form in a stock class; all other weights lie where those of `pruned` lie, so that bits are equal."""
    parts = pruned(forms).components
    base = diffusers.StableDiffusionPipeline.from_pretrained(forms.base)
    adapter = diffusers.MotionAdapter.from_pretrained(forms.portable)
    parts["unet"] = diffusers.UNetMotionModel.from_unet2d(base.unet, adapter)
    return getattr(diffusers, kind)(**parts, **more)


def draw(pipeline: Any, **said: Any) -> np.ndarray:
    """A clip of four frames, [frames, height, width, 3] in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    how = {
        "num_frames": 4, "num_inference_steps": 2, "guidance_scale": 1.0, "height": SIZE, "width": SIZE,
        "output_type": "np", "generator": torch.Generator().manual_seed(0), **said,
    }  # fmt: skip
    known = inspect.signature(pipeline.__call__).parameters
    return pipeline(prompt="a red dot", **{k: v for k, v in how.items() if k in known}).frames[0]


def controlnet() -> Any:
    """Of random weights; those that published ones start from zero as well."""

    def make() -> Any:
        made = diffusers.ControlNetModel(
            cross_attention_dim=TEXT_WIDTH, norm_num_groups=4, attention_head_dim=2, block_out_channels=(8, 8, 16, 16),
            conditioning_embedding_out_channels=(8, 16, 32),
        )  # fmt: skip
        for name, value in made.named_parameters():
            if "controlnet" in name:
                value.data.normal_(std=0.1)
        return made

    return seeded(4, make).eval()


def sparse_controlnet() -> Any:
    def make() -> Any:
        return diffusers.SparseControlNetModel(
            block_out_channels=(8, 8, 16, 16), layers_per_block=2, in_channels=4, conditioning_channels=3,
            down_block_types=("CrossAttnDownBlockMotion",) * 3 + ("DownBlockMotion",), norm_num_groups=4,
            num_attention_heads=2, attention_head_dim=2, motion_num_attention_heads=2, motion_max_seq_length=16,
            cross_attention_dim=TEXT_WIDTH,
            conditioning_embedding_out_channels=(8, 16, 32), use_simplified_condition_embedding=False,
        )  # fmt: skip

    return seeded(5, make).eval()
