"""Bases that are not whole, or something else: refused by name, where libraries go on with what they make up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from models import TEXT_WIDTH, seeded
from safetensors.torch import load_file, save_file

from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import remove_units
from leanmotion.model.teacher import load_base, load_pipeline
from leanmotion.model.units import block_ids
from leanmotion.pipeline.settings import Teacher


@pytest.fixture
def place(teacher_folder: Any, tmp_path: Path) -> SimpleNamespace:
    """A teacher whose base is of its own, to be spoilt."""
    folder = teacher_folder(levels=2, layers=1)
    shutil.copytree(folder.base, tmp_path / "base")
    return SimpleNamespace(base=tmp_path / "base", adapter=folder.adapter)


def teacher(base: Path, adapter: Path) -> Teacher:
    return Teacher(base=str(base), adapter=str(adapter))


def refused(place: SimpleNamespace, *said: str) -> None:
    with pytest.raises(LeanmotionError) as caught:
        load_base(teacher(place.base, place.adapter))
    line = str(caught.value)
    assert "\n" not in line and str(place.base) in line and all(words in line for words in said), line


WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_missing_tensor_is_named(part: str, place: SimpleNamespace) -> None:
    path = place.base / WEIGHTS[part]
    tensors = load_file(path)
    gone = min(tensors)
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})
    refused(place, f"{part} lacks {gone.removeprefix('text_model.')}", "get the whole folder")


OTHERS = {
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "a page": (b"<html>Not found</html>", "is a web page"),
    "nothing": (b"", "is empty"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("part", WEIGHTS)
def test_what_stands_in_the_place_of_weights_is_named(part: str, name: str, place: SimpleNamespace) -> None:
    content, said = OTHERS[name]
    (place.base / WEIGHTS[part]).write_bytes(content)
    refused(place, WEIGHTS[part], said)


def test_a_tokenizer_without_vocabulary_is_refused(place: SimpleNamespace) -> None:
    """The library makes one that knows no word: every prompt is then the same."""
    for path in (place.base / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    refused(place, "neither tokenizer.json nor vocab.json")
    shutil.rmtree(place.base / "tokenizer")
    refused(place, "neither tokenizer.json nor vocab.json")


FILES: dict[str, tuple[Callable[[Path, SimpleNamespace], Any], str]] = {
    "a pointer": (lambda path, _: path.write_bytes(OTHERS["a pointer"][0]), "git lfs pull"),
    "a text": (lambda path, _: path.write_text("not found"), "is a text"),
    "a LoRA": (lambda path, _: save_file({"lora_unet_x.lora_down.weight": torch.ones(2, 2)}, path), "a spatial LoRA"),
    "an adapter": (
        lambda path, place: shutil.copy(place.adapter / "diffusion_pytorch_model.safetensors", path),
        "is a motion module: name it as teacher.adapter",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_single_file_of_something_else(name: str, place: SimpleNamespace, tmp_path: Path) -> None:
    make, said = FILES[name]
    make(tmp_path / "base.safetensors", place)
    refused(SimpleNamespace(base=tmp_path / "base.safetensors", adapter=place.adapter), said)


CARRIED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "norm_eps": {"norm_eps": 0.3},
    "mid_block_scale_factor": {"mid_block_scale_factor": 3.0},
    "downsample_padding": {"downsample_padding": 0},
    "transformer layers": {"transformer_layers_per_block": [1, 2]},
    "heads": {"attention_head_dim": [1, 4]},
    "norm_num_groups": {"norm_num_groups": 2},
    "linear projections": {"use_linear_projection": True},
}


@pytest.mark.parametrize("name", CARRIED)
def test_without_motion_a_motion_unet_is_its_base(name: str, place: SimpleNamespace) -> None:
    """Settings that both kinds of UNet have mean the same to both; those that do not are refused."""
    base: Any = StableDiffusionPipeline.from_pretrained(place.base)
    config = {key: value for key, value in base.unet.config.items() if not key.startswith("_")} | CARRIED[name]
    base.unet = seeded(0, lambda: UNet2DConditionModel.from_config(config)).eval()
    adapter: Any = MotionAdapter.from_pretrained(place.adapter)
    unet: Any = load_pipeline(teacher(place.base, place.adapter), base, adapter).unet.eval()
    remove_units(unet, block_ids(unet))
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 4, 2, 8, 8, generator=generator)
    texts = torch.randn(2, 5, TEXT_WIDTH, generator=generator)
    with torch.no_grad():
        found = unet(frames, torch.tensor(500), texts).sample
        wanted = base.unet(frames[0].transpose(0, 1), torch.tensor(500), texts).sample.transpose(0, 1)[None]
    # The same products of single precision in another order: a few times 1e-7 of the largest value, measured.
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_a_variant_of_the_text_encoder_is_found(place: SimpleNamespace) -> None:
    base: Any = StableDiffusionPipeline.from_pretrained(place.base).to(torch.float16)
    shutil.rmtree(place.base)
    base.save_pretrained(place.base, variant="fp16")
    found = load_base(teacher(place.base, place.adapter)).text_encoder.state_dict()
    assert all(torch.equal(value.half(), found[key].half()) for key, value in base.text_encoder.state_dict().items())
    assert json.loads((place.base / "model_index.json").read_text())["text_encoder"][0] == "transformers"
