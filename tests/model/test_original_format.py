"""Files under the original AnimateDiff's key names: bit for bit both ways, and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import MotionAdapter, StableDiffusionPipeline, UNetMotionModel
from published import WIDTHS, published
from safetensors.torch import load_file, save_file

from leanmotion.errors import LeanmotionError
from leanmotion.model import original_format, pruned_adapter
from leanmotion.model.motion_state import motion_config
from leanmotion.model.removal import remove_units

MIXED = ["down_0_1", "mid_0", "up_3_2", "down_1_0-block0", "up_0_0-block0-attn1", "up_1_1-block0-attn2"]


FORMATS = {"v1": (False, 24), "v2": (True, 32), "v3": (False, 32), "AnimateLCM": (True, None)}


def write(state: dict, path: Path) -> Path:
    save_file({k: v.clone() for k, v in state.items()}, path) if path.suffix == ".safetensors" else torch.save(
        state, path
    )
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pth"])
@pytest.mark.parametrize("name", FORMATS)
def test_original_to_diffusers_and_back_bit_for_bit(tmp_path, name, suffix):
    mid, length = FORMATS[name]
    state = published(mid=mid, length=length)
    loaded = original_format.load_adapter(write(state, tmp_path / f"mm{suffix}"), heads=2, norm_groups=4)
    assert isinstance(loaded, MotionAdapter)
    assert loaded.config["use_motion_mid_block"] is mid
    assert loaded.config["motion_max_seq_length"] == (length or 64)
    assert loaded.config["block_out_channels"] == list(WIDTHS)
    out = original_format.write_original(loaded, tmp_path / f"back{suffix}", positions=length is not None)
    back = load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)


def test_every_key_maps_both_ways():
    for key in published(mid=True, length=32):
        assert key in original_format.to_original(original_format.from_original(key))
    assert original_format.from_original("mid_block.motion_modules.0.temporal_transformer.norm.weight") == (
        "mid_block.motion_modules.0.norm.weight"
    )


def test_half_precision_is_kept(tmp_path):
    state = {key: value.half() for key, value in published(mid=False, length=24).items()}
    loaded = original_format.load_adapter(write(state, tmp_path / "mm.safetensors"), heads=2, norm_groups=4)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float16}


@pytest.mark.parametrize("wrap", ["state_dict", "module.", "trainer", "legacy"])
def test_wrapped_checkpoints(tmp_path, wrap):
    state = published(mid=True, length=32)
    path = tmp_path / "mm.ckpt"
    if wrap == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        inner = {("module." if wrap != "state_dict" else "") + key: value for key, value in state.items()}
        extra = {"module.conv_in.weight": torch.zeros(8, 4, 3, 3)} if wrap == "trainer" else {}
        torch.save({"epoch": 3, "global_step": 100, "state_dict": inner | extra}, path)
    found, config = original_format.read_original(path, heads=2, norm_groups=4)
    assert len(found) == len(state) - 21  # one positional embedding per block, where the original has two
    assert config["motion_num_attention_heads"] == 2


def test_diffusers_keys_in_one_file(tmp_path, make_unet):
    """AnimateDiff-Lightning's file for diffusers."""
    state = {key: value for key, value in make_unet().state_dict().items() if ".motion_modules." in key}
    loaded = original_format.load_adapter(write(state, tmp_path / "lightning.safetensors"), heads=2, norm_groups=4)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickled_code_is_never_run(tmp_path, capsys):
    torch.save({"state_dict": published(mid=True, length=32), "config": Payload()}, tmp_path / "mm.ckpt")
    with pytest.raises(LeanmotionError, match=r"pickled code.*\.safetensors") as caught:
        original_format.read_original(tmp_path / "mm.ckpt")
    assert "\n" not in str(caught.value) and "code ran" not in capsys.readouterr().out


def without(part: str):
    return lambda state: {key: value for key, value in state.items() if part not in key}


def plus(key: str, *shape: int):
    return lambda state: state | {key: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (without("down_blocks.1.motion_modules.1"), "tensors are missing, first down_blocks.1.motion_modules.1"),
        (without("up_blocks.3.motion_modules.2"), "tensors are missing, first up_blocks.3.motion_modules.2"),
        (without("down_blocks.0.motion_modules.0.temporal_transformer.proj_out"), "missing"),
        (without("down_blocks.3"), "3 down and 4 up levels"),
        (without("motion_modules"), "holds no motion modules"),
        (plus("down_blocks.0.motion_modules.0.temporal_transformer.extra.weight", 3), "fit no motion module"),
        (
            lambda state: {key.replace("motion_modules", "temporal_attentions"): v for key, v in state.items()},
            "Hotshot",
        ),
        (
            lambda state: {
                key: value + (0.1 if key.endswith("attention_blocks.1.pos_encoder.pe") else 0)
                for key, value in state.items()
            },
            "positional encodings of a block differ",
        ),
        (
            lambda state: {
                k: v[:4] if k.endswith("0.temporal_transformer.proj_in.bias") else v for k, v in state.items()
            },
            "expected",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, line):
    path = write(change(published(mid=True, length=32)), tmp_path / "mm.safetensors")
    with pytest.raises(LeanmotionError, match=line) as caught:
        original_format.load_adapter(path, heads=2, norm_groups=4)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_sdxl_is_named(tmp_path):
    state = published(mid=False, length=32, widths=(320, 640, 1280))
    small = {key: value for key, value in state.items() if ".norm" in key or "pos_encoder" in key}
    with pytest.raises(LeanmotionError, match="SDXL"):
        original_format.read_original(write(small, tmp_path / "mm.safetensors"))


@pytest.mark.parametrize("name", ["mm.safetensors", "mm.ckpt"])
def test_damaged_files(tmp_path, name):
    path = write(published(mid=False, length=24), tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LeanmotionError, match="get it again"):
        original_format.load_adapter(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(LeanmotionError):
        original_format.load_adapter(path)
    with pytest.raises(LeanmotionError, match="no such file"):
        original_format.load_adapter(tmp_path / "absent.ckpt")


@pytest.fixture
def folder(teacher_folder, tmp_path):
    MotionAdapter.from_pretrained(teacher_folder().adapter).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_folder_without_a_length_in_its_config(folder):
    expected = MotionAdapter.from_pretrained(folder).state_dict()
    edit(folder, motion_max_seq_length=None)
    loaded = original_format.load_adapter(folder)
    assert loaded.config["motion_max_seq_length"] == 16
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in expected.items())


def test_incomplete_folder_is_refused(folder):
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if not k.startswith("mid_block")}, weights)
    with pytest.raises(LeanmotionError, match="tensors are missing, first mid_block"):
        original_format.load_adapter(folder)
    weights.unlink()
    with pytest.raises(LeanmotionError, match=r"no diffusion_pytorch_model\.safetensors"):
        original_format.load_adapter(folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"_class_name": "UNetMotionModel"}, "is of a UNetMotionModel"),
        ({"_class_name": "LeanMotionAdapter"}, "load_pruned_pipeline"),
        ({"conv_in_channels": 9}, "PIA"),
        ({"motion_layers_per_block": [1, 2]}, "does not make a MotionAdapter"),
    ],
)
def test_other_folders_are_refused(folder, changes, line):
    edit(folder, **changes)
    with pytest.raises(LeanmotionError, match=line):
        original_format.load_adapter(folder)


@pytest.mark.numeric
def test_all_exports_of_a_student_give_its_output(teacher_folder, tmp_path, unet_inputs, folder):
    unet2d = StableDiffusionPipeline.from_pretrained(teacher_folder().base).unet
    student: Any = UNetMotionModel.from_unet2d(unet2d, MotionAdapter.from_pretrained(folder))
    remove_units(student, MIXED).eval()
    files = [original_format.write_original(student, tmp_path / f"student{s}") for s in (".safetensors", ".ckpt")]
    portable = pruned_adapter.save_portable(student, tmp_path / "portable")
    pruned = pruned_adapter.save_pruned(student, tmp_path / "pruned")
    unets = {
        "pruned": pruned_adapter.apply_pruned(unet2d, pruned),
        "safetensors, its header tells heads": UNetMotionModel.from_unet2d(
            unet2d, original_format.load_adapter(files[0])
        ),
        "ckpt, a record of it tells heads": UNetMotionModel.from_unet2d(unet2d, original_format.load_adapter(files[1])),
        "portable": UNetMotionModel.from_unet2d(unet2d, original_format.load_adapter(portable)),
        "stock": UNetMotionModel.from_unet2d(unet2d, MotionAdapter.from_pretrained(portable)),
    }
    for suffix, file in zip((".safetensors", ".ckpt"), files, strict=True):
        stock = MotionAdapter.from_single_file(str(file), config=str(portable), local_files_only=True)
        unets[f"stock single file{suffix}"] = UNetMotionModel.from_unet2d(unet2d, stock)
    with torch.no_grad():
        expected = student(**unet_inputs).sample
        for name, unet in unets.items():
            assert torch.equal(unet.eval()(**unet_inputs).sample, expected), name


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pth"])
@pytest.mark.parametrize("widths", [(8, 16), (32, 64)])
def test_what_is_written_loads_back_as_what_it_was(tmp_path, widths, suffix, positions):
    """Heads and norm groups too, which the published 8 and 32 would fit (or not), and the length without positions."""
    config = {"motion_num_attention_heads": 2, "motion_norm_num_groups": 4, "motion_max_seq_length": 24}
    made = MotionAdapter(block_out_channels=widths, motion_layers_per_block=1, **config)  # pyright: ignore
    file = original_format.write_original(made, tmp_path / f"mm{suffix}", positions=positions)
    assert original_format.holds_positions(file) is positions
    loaded = original_format.load_adapter(file)
    assert motion_config(loaded) == motion_config(made)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in made.state_dict().items())


def test_widths_that_no_published_module_has_are_refused_where_nothing_tells_heads(tmp_path):
    path = write(published(mid=True, length=32), tmp_path / "mm.ckpt")
    with pytest.raises(LeanmotionError, match="tells neither heads nor norm groups"):
        original_format.load_adapter(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_bytes_depend_on_weights_alone(folder, tmp_path, suffix):
    loaded = original_format.load_adapter(folder)
    paths = [original_format.write_original(loaded, tmp_path / name / f"{name}{suffix}") for name in "abcdef"]
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}) == 1
    assert [p.name for p in (tmp_path / "a").iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_silent_blocks_may_be_left_out(folder, tmp_path, suffix):
    """Whole blocks alone: of `down_1_0`, whose inner unit is gone, everything is there."""
    model = remove_units(original_format.load_adapter(folder), MIXED)
    full, small = (
        original_format.write_original(model, tmp_path / f"{silent}{suffix}", silent=silent) for silent in (True, False)
    )
    read = load_file if suffix == ".safetensors" else lambda path: torch.load(path, weights_only=True)
    whole, left = read(full), read(small)
    gone = {
        key
        for key in whole
        if key.startswith(("down_blocks.0.motion_modules.1", "mid_block", "up_blocks.3.motion_modules.2"))
    }
    assert left.keys() == whole.keys() - gone and all(torch.equal(left[key], whole[key]) for key in left)
    with pytest.raises(LeanmotionError, match="AnimateDiff's own code alone, 3 silent blocks are left out"):
        original_format.load_adapter(small)
    assert small.stat().st_size < full.stat().st_size


def test_nothing_is_left_out_of_an_adapter_without_silent_blocks(folder, tmp_path):
    model = original_format.load_adapter(folder)
    small = original_format.write_original(model, tmp_path / "small.ckpt", silent=False)
    assert motion_config(original_format.load_adapter(small)) == motion_config(model)


def test_unknown_suffix(folder, tmp_path):
    with pytest.raises(LeanmotionError, match=r"choose \.safetensors"):
        original_format.write_original(original_format.load_adapter(folder), tmp_path / "mm.onnx")


@pytest.mark.long
def test_real_size_in_bounded_memory(tmp_path):
    """The v2 module (453,209,280 parameters) in original keys, pruned to 10 blocks, in all three forms.

    In half precision; LEANMOTION_SLOW=1 takes float32, as `mm_sd_v15_v2.ckpt` is published, and 7 GB of disk.
    """
    dtype, gigabytes = ("float32", 8) if os.environ.get("LEANMOTION_SLOW") else ("bfloat16", 4)
    if shutil.disk_usage(tmp_path).free < gigabytes * 1e9:
        pytest.skip(f"less than {gigabytes} GB are free on the disk of {tmp_path}")
    code = textwrap.dedent("""
        import json, resource, sys, torch
        from pathlib import Path
        from diffusers import MotionAdapter
        from leanmotion.model import original_format, pruned_adapter
        from leanmotion.model.motion_state import motion_config
        from leanmotion.model.removal import remove_units
        from leanmotion.model.units import block_ids, list_units
        place, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
        with torch.device("meta"):
            made = MotionAdapter()
        made = made.to(dtype).to_empty(device="cpu")
        for value in made.state_dict().values():
            value.uniform_(-0.1, 0.1)
        original_format.write_original(made, place / "mm.safetensors")
        del made
        motion = original_format.load_adapter(place / "mm.safetensors")
        units = list_units(motion, "temporal_transformer")
        total = sum(p.numel() for p in motion.parameters())
        remove_units(motion, [unit.id for unit in units][::2])
        kept = block_ids(motion)
        pruned_adapter.save_pruned(motion, place / "pruned")
        pruned_adapter.save_portable(motion, place / "portable")
        original_format.write_original(motion, place / "student.safetensors")
        again = original_format.load_adapter(place / "student.safetensors")
        whole = sum(p.numel() for p in again.parameters())
        rows = [[unit.id, unit.parameters] for unit in units]
        # Peak resident memory, mapped files and the imports of torch and diffusers included; Linux counts in KiB.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps([rows, total, kept, whole, peak]))
    """)
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path), dtype], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    rows, total, kept, whole, peak = json.loads(run.stdout)
    assert total == whole == 453_209_280 and len(rows) == 21 and len(kept) == 10
    assert {round(size / 1e6, 2) for _, size in rows} == {2.26, 9.02, 36.07}
    assert peak <= (6 if dtype == "float32" else 4), f"{peak} GiB"
    shutil.rmtree(tmp_path)  # gigabytes, which pytest would keep
