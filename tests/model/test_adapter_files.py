"""Adapter files as people hold them: read by what is in them, or called what they are."""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline
from models import make_adapter
from published import published
from safetensors.torch import save_file
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.model.adapter_files import NOT_MOTION, OTHER_KINDS, read_tensors
from leanmotion.model.motion_state import sinusoids
from leanmotion.model.original_format import load_adapter, read_original
from leanmotion.model.pruned_adapter import save_pruned
from leanmotion.model.teacher import load_base, weight_files
from leanmotion.pipeline.settings import Teacher

STATE = published(mid=True, length=32)
READ: dict[str, Any] = {"heads": 2, "norm_groups": 4}


def write(path: Path, content: Any) -> Path:
    if path.suffix.lower() == ".safetensors":
        save_file({key: value.clone() for key, value in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def is_read(path: Path) -> None:
    found, _ = read_original(path, **READ)
    wanted = read_original(write(path.with_name("plain.safetensors"), STATE), **READ)[0]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def refused(path: Path, *said: str) -> None:
    with pytest.raises(LeanmotionError) as caught:
        load_adapter(path, **READ)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line and all(words in line for words in said), line


@pytest.mark.parametrize(
    "prefix",
    ["module.", "unet.", "model.", "module.unet.", "_orig_mod.", "module.module.", "unet_ema.", "motion_module.",
     "diffusion_model.", "model.diffusion_model.", "anything.at_all."],
)  # fmt: skip
def test_whatever_stands_before_keys(prefix: str, tmp_path: Path) -> None:
    is_read(write(tmp_path / "mm.safetensors", {prefix + key: value for key, value in STATE.items()}))


def test_parts_that_were_compiled(tmp_path: Path) -> None:
    """`torch.compile` of a block puts a name of its own inside its keys."""
    keys = {key: re.sub(r"(motion_modules\.\d+\.)", r"\1_orig_mod.", key) for key in STATE}
    assert all("._orig_mod." in key for key in keys.values())
    is_read(write(tmp_path / "mm.safetensors", {keys[key]: value for key, value in STATE.items()}))


def test_motion_modules_twice_are_refused(tmp_path: Path) -> None:
    twice = {f"{prefix}{key}": value for prefix in ("unet.", "unet_ema.") for key, value in STATE.items()}
    refused(write(tmp_path / "mm.safetensors", twice), "several prefixes ('unet.', 'unet_ema.')")
    nested = {"first": STATE, "second": STATE}
    refused(write(tmp_path / "mm.ckpt", nested), "several state dicts (first, second)")


NESTED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "state_dict": lambda s: {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in s.items()}},
    "with an optimizer": lambda s: {"state_dict": s, "optimizer": {"state": {0: {"step": torch.ones(())}}}},
    "an average beside it": lambda s: {"state_dict": s, "ema_state_dict": {k: v + 1 for k, v in s.items()}},
    "an average alone": lambda s: {"epoch": 1, "ema_state_dict": s},
    "unet": lambda s: {"unet": s},
    "motion_module": lambda s: {"motion_module": s},
    "any name, deeper": lambda s: {"a": {"b": {"c": {"d": {"e": {"f": s}}}}}},
    "a list": lambda s: {"models": [s], "shadow_params": list(s.values())},
    "an ordered dictionary": OrderedDict,
    "a config beside it": lambda s: {**s, "animatediff_config": {"a": 1}},
    "parameters": lambda s: {key: torch.nn.Parameter(value) for key, value in s.items()},
}


@pytest.mark.parametrize("how", NESTED)
def test_nested_state_dicts(how: str, tmp_path: Path) -> None:
    is_read(write(tmp_path / "mm.ckpt", NESTED[how](STATE)))


@pytest.mark.parametrize("name", ["mm.ckpt", "mm.pth", "mm.bin", "mm", "mm.SAFETENSORS", "mm.safetensors"])
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_formats_are_told_by_content(kind: str, name: str, tmp_path: Path) -> None:
    written = write(tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt"), STATE)
    is_read(written.rename(tmp_path / name))


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    return content.getvalue()


CONTENTS = {
    "a web page": (b"\n<!DOCTYPE html><html>Not found</html>", "a web page"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 18\n", "git lfs pull"),
    "nothing": (b"", "is empty"),
    "GGUF": (b"GGUF\x03\0\0\0", "a GGUF file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "a text": (b"Entry not found", "is a text"),
    "bzip2": (b"BZh91AY&SY", "compressed by bzip2: unpack it"),
    "xz": (b"\xfd7zXZ\0\0", "compressed by xz: unpack it"),
    "NumPy": (b"\x93NUMPY\1\0", "a NumPy array"),
    "tar": (b"mm.ckpt".ljust(257, b"\0") + b"ustar\x0000", "a tar archive: unpack it"),
    "a zip of files": (zipped("mm.ckpt"), "a zip archive: unpack it"),
    "NumPy, several": (zipped("conv_in.weight.npy"), "a zip archive"),
    "a sheet": (zipped("[Content_Types].xml"), "a document of Office programs"),
    "a torn torch archive": (zipped("archive/data.pkl")[:60], "not a readable file, or cut short"),
    "junk": (bytes(range(200, 256)) * 9, "not a readable file, or cut short"),
    "a torn archive": (b"PK\x03\x04" + bytes(200), "a zip archive"),
}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("name", CONTENTS)
def test_files_of_other_kinds(name: str, suffix: str, tmp_path: Path) -> None:
    content, said = CONTENTS[name]
    path = tmp_path / f"mm.{suffix}"
    path.write_bytes(content)
    refused(path, said)


@pytest.mark.parametrize(
    "content",
    [
        [STATE, STATE],
        list(STATE.values()),
        {"args": argparse.Namespace(lr=1), "state_dict": STATE},
        {"path": pathlib.PurePosixPath("x")},
    ],
    ids=["two", "list", "namespace", "path"],
)
def test_pickles_of_other_things(content: Any, tmp_path: Path) -> None:
    refused(write(tmp_path / "mm.ckpt", content), "mm.ckpt")


MODULE = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
KEYS = {
    # A key of what goes by such a file name, whether motion modules are beside it, and what it is called.
    f"{SPATIAL}.processor.to_q_lora.down.weight": (False, "a spatial LoRA (as v3_sd15_adapter is)"),
    "lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight": (False, "a spatial LoRA"),
    "lycoris_down_blocks_0_attentions_0.hada_w1_a": (False, "a spatial LoRA"),
    f"{MODULE}.attention_blocks.0.processor.to_q_lora.down.weight": (False, "a motion LoRA"),
    "unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (False, "a motion LoRA"),
    "lycoris_down_blocks_0_motion_modules_0.lokr_w1": (False, "a motion LoRA"),
    "controlnet_cond_embedding.conv_in.weight": (True, "a SparseCtrl encoder"),
    "input_hint_block.0.weight": (True, "a SparseCtrl encoder"),
    "controlnet_down_blocks.0.weight": (True, "a SparseCtrl encoder"),
    "down_blocks.0.temporal_attentions.0.norm.weight": (False, "a Hotshot-XL module"),
    "module.img_encoder.conv_in.weight": (True, "an image-to-video module"),
    "fps_embedding.linear.weight": (True, "a FancyVideo module"),
    "pose_encoder.encoder.weight": (False, "a camera control"),
    f"{MODULE}.attention_blocks.0.processor.qkv_merge.weight": (True, "a camera control"),
    f"{MODULE}.attention_blocks.0.cc_projections.weight": (True, "a camera control"),
    "model.diffusion_model.out.2.bias": (False, "a whole Stable Diffusion checkpoint"),
    "model.diffusion_model.input_blocks.1.0.time_mixer.mix_factor": (False, "a whole Stable Diffusion checkpoint"),
    "input_blocks.1.0.time_stack.weight": (False, "a Stable Video Diffusion model"),
    "module.down_blocks.0.resnets.0.conv1.weight": (False, "a UNet without motion modules"),
    "encoder.down.0.block.0.conv1.weight": (False, "a VAE"),
    "text_model.encoder.layers.0.mlp.fc1.weight": (False, "a text encoder"),
    "something.else": (False, "holds no motion modules"),
}


@pytest.mark.parametrize("key", KEYS)
def test_other_models_are_called_what_they_are(key: str, tmp_path: Path) -> None:
    beside, name = KEYS[key]
    refused(write(tmp_path / "mm.safetensors", {**(STATE if beside else {}), key: torch.ones(2, 2)}), name)


def test_every_other_kind_has_its_key() -> None:
    named = " ".join(name for _, name in KEYS.values())
    assert all(kind.name.split(",")[0].split(" (")[0] in named for kind in (*OTHER_KINDS, *NOT_MOTION))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64])
def test_weights_that_are_not_floating_point_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """Quantised weights mean nothing without their scales."""
    some = {key: value.to(dtype) if key.endswith("to_q.weight") else value for key, value in STATE.items()}
    refused(write(tmp_path / "mm.safetensors", some), f"holds weights as {str(dtype).removeprefix('torch.')}")


@pytest.mark.parametrize("how", [lambda t: t.to("meta"), lambda t: t.to_sparse()], ids=["meta", "sparse"])
def test_tensors_that_are_none_are_refused(how: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    some = {key: how(value) if key.endswith("to_q.weight") else value for key, value in STATE.items()}
    refused(write(tmp_path / "mm.ckpt", some), "without values, or sparse")


@pytest.mark.parametrize("heads", [3, 0, "2", None, [2, 2, 2, 3]])
def test_heads_that_divide_nothing_are_refused(heads: Any, adapter: Any, tmp_path: Path) -> None:
    adapter.save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder/config.json").read_text())
    (tmp_path / "folder/config.json").write_text(json.dumps({**config, "motion_num_attention_heads": heads}))
    refused(tmp_path / "folder", "config.json does not make a MotionAdapter")


OTHER_KEYS: dict[str, tuple[dict[str, Tensor], str]] = {
    "the original's": (STATE, "its keys are not a diffusers MotionAdapter's"),
    "a prefix": ({f"module.{key}": value for key, value in STATE.items()}, "its keys are not"),
    "a LoRA": ({f"{SPATIAL}.to_q.lora_A.weight": torch.ones(2, 2)}, "a spatial LoRA"),
    "a UNet": (
        {"conv_in.weight": torch.ones(2, 4, 3, 3), "down_blocks.0.resnets.0.x": torch.ones(1)},
        "a UNet without",
    ),
}


@pytest.mark.parametrize("name", OTHER_KEYS)
def test_a_folder_with_other_weights(name: str, adapter: Any, tmp_path: Path) -> None:
    """Called what they are, where it was said before that 546 tensors are missing."""
    tensors, said = OTHER_KEYS[name]
    adapter.save_pretrained(tmp_path / "folder")
    write(tmp_path / "folder/diffusion_pytorch_model.safetensors", tensors)
    refused(tmp_path / "folder", said)


def test_a_file_is_not_read_with_other_heads_than_its_folder_says(tmp_path: Path) -> None:
    """Heads are in no tensor: of a folder of 2 the file alone would come back with the published 8."""
    with torch.device("meta"):
        made: Any = MotionAdapter(block_out_channels=(32, 64), motion_num_attention_heads=2)  # pyright: ignore
    made.to_empty(device="cpu").save_pretrained(tmp_path / "folder")
    file = tmp_path / "folder/diffusion_pytorch_model.safetensors"
    with pytest.raises(
        LeanmotionError, match=r"config\.json beside it says other heads or norm groups: name the folder"
    ):
        read_original(file)
    assert read_original(file, heads=2)[1]["motion_num_attention_heads"] == 2
    assert load_adapter(tmp_path / "folder").config["motion_num_attention_heads"] == 2
    (tmp_path / "folder/config.json").unlink()
    assert read_original(file)[1]["motion_num_attention_heads"] == 8


def test_a_folder_of_single_files_names_one(tmp_path: Path) -> None:
    write(tmp_path / "mm_v2.ckpt", STATE)
    with pytest.raises(LeanmotionError, match=r"get the whole folder .*, or name the file, as mm_v2\.ckpt"):
        load_adapter(tmp_path)


def test_a_pia_module_is_named(tmp_path: Path) -> None:
    refused(write(tmp_path / "mm.ckpt", {**STATE, "unet.conv_in.weight": torch.ones(8, 9, 3, 3)}), "a PIA module")


def test_motion_modules_of_a_whole_unet(tmp_path: Path) -> None:
    more = {"conv_in.weight": torch.ones(8, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": torch.ones(8, 8, 3, 3)}
    is_read(write(tmp_path / "mm.ckpt", {"state_dict": {f"module.{k}": v for k, v in {**STATE, **more}.items()}}))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16])
def test_made_positions_are_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    """AnimateLCM's file has none: they are no weights, and are not rounded as weights are."""
    state = {key: value.to(dtype) for key, value in STATE.items() if not key.endswith(".pe")}
    loaded = load_adapter(write(tmp_path / "mm.safetensors", state), **READ).to(torch.float32)  # pyright: ignore[reportArgumentType]
    made = {key: value for key, value in loaded.state_dict().items() if key.endswith(".pe")}
    assert len(made) == 21
    assert all(torch.equal(value, sinusoids(*value.shape[1:])) for value in made.values())


# Folders


@pytest.fixture(scope="module")
def adapter() -> Any:
    return make_adapter(levels=2, layers=1)


FOLDERS: dict[str, dict[str, Any]] = {
    "plain": {}, "torch": {"safe_serialization": False}, "fp16": {"variant": "fp16"},
    "shards": {"max_shard_size": "20KB"}, "torch shards": {"max_shard_size": "20KB", "safe_serialization": False},
    "fp16 shards": {"max_shard_size": "20KB", "variant": "fp16"},
}  # fmt: skip


@pytest.mark.parametrize("how", FOLDERS)
def test_folders_load_as_in_diffusers(how: str, adapter: Any, teacher_folder: Any, tmp_path: Path) -> None:
    """And every file that was read is among those whose SHA-256 is recorded."""
    adapter.save_pretrained(tmp_path / "a", **FOLDERS[how])
    weights = {path.name for path in (tmp_path / "a").iterdir()}
    assert (len(weights) > 2) == ("shards" in how)
    found = load_adapter(tmp_path / "a").state_dict()
    wanted = adapter.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], value) for key, value in wanted.items())
    teacher = Teacher(base=str(teacher_folder(levels=2, layers=1).base), adapter=str(tmp_path / "a"))
    files = {name.partition("/")[2] for name in weight_files(teacher) if name.startswith("adapter/")}
    assert files == weights


def test_plain_weights_come_before_a_variant(adapter: Any, tmp_path: Path) -> None:
    adapter.save_pretrained(tmp_path / "a")
    other = make_adapter(levels=2, layers=1, seed=9)
    other.save_pretrained(tmp_path / "a", variant="fp16")
    key = "mid_block.motion_modules.0.proj_in.weight"
    assert torch.equal(load_adapter(tmp_path / "a").state_dict()[key], adapter.state_dict()[key])
    other.save_pretrained(tmp_path / "a", variant="ema")
    (tmp_path / "a/diffusion_pytorch_model.safetensors").unlink()
    refused(tmp_path / "a", "variants ema, fp16")


def test_a_missing_shard_is_named(adapter: Any, tmp_path: Path) -> None:
    adapter.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    shard = sorted((tmp_path / "a").glob("*.safetensors"))[1]
    shard.unlink()
    refused(tmp_path / "a", shard.name)


def test_folders_of_other_things(adapter: Any, make_unet: Any, teacher_folder: Any, tmp_path: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(teacher_folder(levels=2, layers=1).base)
    parts: Any = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    AnimateDiffPipeline(**parts, motion_adapter=adapter).save_pretrained(tmp_path / "pipeline")
    refused(tmp_path / "pipeline", "a whole pipeline: name its motion_adapter folder")
    refused(tmp_path / "pipeline/unet", "is of a UNetMotionModel")
    assert load_adapter(tmp_path / "pipeline/motion_adapter")
    save_pruned(make_unet(levels=2, layers=1), tmp_path / "export/pruned")
    refused(tmp_path / "export/pruned", "this is a pruned adapter")
    (tmp_path / "export/portable").mkdir()
    refused(tmp_path / "export", "name its portable folder")
    # Not that some file of it is missing: also where only the files are looked for.
    with pytest.raises(LeanmotionError, match="this is a pruned adapter"):
        weight_files(Teacher(base=str(tmp_path / "pipeline"), adapter=str(tmp_path / "export/pruned")))


@pytest.fixture
def base(teacher_folder: Any, tmp_path: Path) -> Path:
    return shutil.copytree(teacher_folder(levels=2, layers=1).base, tmp_path / "base")


def to_variant(folder: Path, name: str) -> None:
    """A part's weights in half precision, under a variant's name alone."""
    from safetensors.torch import load_file

    (weights,) = folder.glob("*.safetensors")
    half = {key: value.half() if value.is_floating_point() else value for key, value in load_file(weights).items()}
    save_file(half, weights.with_name(f"{weights.stem}.{name}.safetensors"), metadata={"format": "pt"})
    weights.unlink()


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",)])
def test_a_base_in_half_precision_alone(parts: tuple[str, ...], base: Path, teacher_folder: Any) -> None:
    for part in parts:
        to_variant(base / part, "fp16")
    teacher = Teacher(base=str(base), adapter=str(teacher_folder(levels=2, layers=1).adapter))
    weights = {name for name in weight_files(teacher) if name.startswith("base/") and name.endswith(".safetensors")}
    assert len(weights) == 3 and sum("fp16" in name for name in weights) == len(parts)
    whole = load_base(Teacher(base=str(teacher_folder(levels=2, layers=1).base), adapter=teacher.adapter)).unet
    halved = load_base(teacher).unet
    assert halved.dtype == torch.float32
    assert all(torch.equal(v, whole.state_dict()[k].half().float()) for k, v in halved.state_dict().items())


def test_two_variants_and_no_plain_weights_are_refused(base: Path, teacher_folder: Any) -> None:
    to_variant(base / "unet", "fp16")
    half = base / "unet/diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(half, half.with_name("diffusion_pytorch_model.ema.safetensors"))
    teacher = Teacher(base=str(base), adapter=str(teacher_folder(levels=2, layers=1).adapter))
    with pytest.raises(LeanmotionError, match="variants ema, fp16"):
        weight_files(teacher)


def test_the_note_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mm.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={"motion_adapter": json.dumps({"x": 1})})
    assert read_tensors(path)[1] == {"x": 1}
    save_file({"a": torch.ones(1)}, path, metadata={"motion_adapter": "no JSON"})
    refused(path, "not a readable file")
