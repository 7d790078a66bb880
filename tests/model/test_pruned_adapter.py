"""Pruned and portable folders: the same UNet as in memory, in stock diffusers too, and clear refusals."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline, UNetMotionModel
from models import skip_without_bfloat16_attention

from leanmotion.errors import LeanmotionError
from leanmotion.model import pruned_adapter
from leanmotion.model.motion_state import motion_config, motion_state
from leanmotion.model.removal import remove_units, removed_units
from leanmotion.model.student import network_digest
from leanmotion.model.units import list_units

pytestmark = pytest.mark.numeric

MIXED = ["down_0_1", "mid_0", "up_3_2", "down_1_0-block0", "up_0_0-block0-attn1", "up_1_1-block0-attn2",
         "down_2_0-block0-attn1", "down_2_0-block0-attn2"]  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def call(unet, inputs) -> torch.Tensor:
    with torch.no_grad():
        return unet(**inputs).sample


@pytest.fixture(scope="module")
def base(teacher_folder):
    return teacher_folder().base


@pytest.fixture
def unet2d(base):
    return StableDiffusionPipeline.from_pretrained(base).unet


@pytest.fixture
def student(unet2d, teacher_folder):
    """The teacher with units removed and all motion weights moved, as distillation leaves them."""
    teacher = MotionAdapter.from_pretrained(teacher_folder().adapter)
    unet: Any = UNetMotionModel.from_unet2d(unet2d, teacher)
    remove_units(unet, MIXED).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, value in unet.named_parameters():
            if ".motion_modules." in key:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return unet


@pytest.fixture
def pruned(student, tmp_path):
    return pruned_adapter.save_pruned(
        student, tmp_path / "deep" / "pruned", evidence={"fvd": 12.5, "n": 64}, card="# Card\n"
    )


def test_pruned_gives_the_same_unet(student, pruned, unet2d, unet_inputs):
    loaded = pruned_adapter.apply_pruned(unet2d, pruned)
    assert removed_units(loaded) == removed_units(student)
    assert torch.equal(call(loaded, unet_inputs), call(student, unet_inputs))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in student.parameters())
    assert sorted(path.name for path in pruned.iterdir()) == ["README.md", "config.json", "pruned_motion.safetensors"]
    assert sorted(path.name for path in pruned.parent.iterdir()) == ["pruned"]
    assert {path.stat().st_mode & 0o777 for path in pruned.iterdir()} == {0o644}


@pytest.mark.parametrize("ids", [[], "all"])
def test_nothing_and_everything_removed(make_unet, unet2d, unet_inputs, tmp_path, ids):
    unet: Any = UNetMotionModel.from_unet2d(unet2d, _adapter_of(make_unet()))
    blocks = [unit.id for unit in list_units(unet, "temporal_transformer")]
    remove_units(unet, blocks if ids == "all" else [])
    for save, load in (
        (pruned_adapter.save_pruned, lambda folder: pruned_adapter.apply_pruned(unet2d, folder)),
        (
            pruned_adapter.save_portable,
            lambda folder: UNetMotionModel.from_unet2d(unet2d, MotionAdapter.from_pretrained(folder)),
        ),
    ):
        folder = save(unet, tmp_path / "folder")
        assert torch.equal(call(load(folder), unet_inputs), call(unet, unet_inputs))


def _adapter_of(unet) -> MotionAdapter:
    made = MotionAdapter(**motion_config(unet))
    made.load_state_dict(motion_state(unet))
    return made


def test_dtype_follows_the_base(student, pruned, unet2d):
    loaded = pruned_adapter.apply_pruned(unet2d.to(torch.bfloat16), pruned)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.bfloat16}


def test_config_holds_what_is_needed(student, pruned):
    config = pruned_adapter.read_pruned_config(pruned)
    assert config["removed_units"] == removed_units(student)
    assert config["evidence"] == {"fvd": 12.5, "n": 64}
    assert MotionAdapter(**config["motion_adapter"]).config["motion_max_seq_length"] == 16
    weights = pruned / "pruned_motion.safetensors"
    assert config["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_bytes_depend_on_weights_alone(student, pruned, tmp_path):
    again = pruned_adapter.save_pruned(student, tmp_path / "again", evidence={"n": 64, "fvd": 12.5}, card="# Card\n")
    assert digests(again) == digests(pruned)
    pruned_adapter.save_portable(student, tmp_path / "full")
    first = digests(tmp_path / "full")
    assert digests(pruned_adapter.save_portable(student, tmp_path / "full")) == first


def test_a_failed_write_leaves_what_was_there(student, pruned):
    before = digests(pruned)
    with pytest.raises(LeanmotionError, match="plain JSON"):
        pruned_adapter.save_pruned(student, pruned, evidence={"fvd": float("nan")})
    assert digests(pruned) == before and [p.name for p in pruned.parent.iterdir()] == ["pruned"]


def test_stock_diffusers_refuses_the_pruned_folder(pruned):
    with pytest.raises(OSError):
        MotionAdapter.from_pretrained(pruned)
    with pytest.raises(OSError):
        MotionAdapter.from_pretrained(pruned, low_cpu_mem_usage=False)


def truncate(folder: Path) -> None:
    weights = folder / "pruned_motion.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def flip(folder: Path) -> None:
    weights = folder / "pruned_motion.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))


def edit(**changes):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (truncate, "cut short or altered"),
        (flip, "cut short or altered"),
        (lambda folder: (folder / "pruned_motion.safetensors").unlink(), "copy the whole folder"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "is of a None"),
        (edit(_class_name="MotionAdapter"), "load it with diffusers"),
        (edit(format=2), "update leanmotion"),
        (edit(sha256=None), "lacks 'sha256'"),
        (edit(removed_units=["up_9_9"]), "not what was written"),
        (edit(removed_units=[]), "not what was written"),
        (edit(motion_adapter={}), "not what was written"),
    ],
)
def test_damage_is_one_clear_line(pruned, unet2d, damage, line):
    damage(pruned)
    with pytest.raises(LeanmotionError, match=line) as caught:
        pruned_adapter.apply_pruned(unet2d, pruned)
    assert "\n" not in str(caught.value)


def test_another_architecture_is_refused(pruned, teacher_folder):
    other = StableDiffusionPipeline.from_pretrained(teacher_folder(levels=2).base)
    with pytest.raises(LeanmotionError, match="block_out_channels"):
        pruned_adapter.apply_pruned(other.unet, pruned)


def frames(pipeline, **kwargs) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(
        "a red dot", num_frames=4, num_inference_steps=2, guidance_scale=1.0, generator=generator, height=32, width=32,
        output_type="np", **kwargs,
    ).frames[0]  # fmt: skip


def in_memory(base, student) -> AnimateDiffPipeline:
    none: Any = None
    """The pipeline that an export is to equal, of the same parts."""
    parts = StableDiffusionPipeline.from_pretrained(base).components
    names = ("vae", "text_encoder", "tokenizer", "scheduler")
    return AnimateDiffPipeline(unet=student, motion_adapter=none, **{name: parts[name] for name in names})


def test_pipelines_draw_the_same_frames(student, pruned, base, teacher_folder, tmp_path):
    """To the bit where this package loads the parts, however the base is given.

    Stock diffusers leaves autoencoder and text encoder where the file maps them, so that kernels may take another path:
    some 150 layers, two calls of the UNet among them, each rounding values of order 1 by 6e-8, add up to 1e-5 at most.
    """
    expected = frames(in_memory(base, student))
    drawn = []
    for given in (base, str(base), StableDiffusionPipeline.from_pretrained(base)):
        pipeline = pruned_adapter.load_pruned_pipeline(pruned, base=given)
        assert isinstance(pipeline, AnimateDiffPipeline)
        drawn.append(frames(pipeline))
    assert all(np.array_equal(clip, drawn[0]) for clip in drawn)
    np.testing.assert_allclose(drawn[0], expected, rtol=0, atol=1e-5)
    portable = MotionAdapter.from_pretrained(pruned_adapter.save_portable(student, tmp_path / "portable"))
    stock = AnimateDiffPipeline.from_pretrained(base, motion_adapter=portable)
    np.testing.assert_allclose(frames(stock), expected, rtol=0, atol=1e-5)
    # The export was really used: the teacher's own adapter draws something else.
    teacher = MotionAdapter.from_pretrained(teacher_folder().adapter)
    other = frames(AnimateDiffPipeline.from_pretrained(base, motion_adapter=teacher))
    assert np.abs(other - expected).max() > 1e-3


def test_a_base_with_motion_modules_is_refused(student, pruned, base, tmp_path):
    wrong = in_memory(base, student)
    with pytest.raises(LeanmotionError, match="UNetMotionModel"):
        pruned_adapter.load_pruned_pipeline(pruned, base=wrong)
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text('{"_class_name": "UNetMotionModel"}')
    with pytest.raises(LeanmotionError, match="motion modules of its own"):
        pruned_adapter.load_pruned_pipeline(pruned, base=tmp_path / "base")
    with pytest.raises(LeanmotionError, match="does not load"):
        pruned_adapter.load_pruned_pipeline(pruned, base=tmp_path)


def test_pipeline_dtype(pruned, base):
    pipeline = pruned_adapter.load_pruned_pipeline(pruned, base=base, torch_dtype=torch.bfloat16)
    assert pipeline.unet.dtype == pipeline.vae.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_portable_is_exact_at_every_granularity(student, unet2d, unet_inputs, tmp_path, dtype):
    if dtype == torch.bfloat16:
        skip_without_bfloat16_attention()
    folder = pruned_adapter.save_portable(student, tmp_path / "portable")
    stock: Any = UNetMotionModel.from_unet2d(unet2d, MotionAdapter.from_pretrained(folder))
    stock = stock.to(dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in unet_inputs.items()}
    output = call(stock, inputs)
    assert torch.isfinite(output).all()
    assert torch.equal(output, call(student.to(dtype), inputs))


def test_portable_zeros_only_what_was_removed(student, tmp_path):
    folder = pruned_adapter.save_portable(student, tmp_path / "portable")
    state = MotionAdapter.from_pretrained(folder).state_dict()
    kept = motion_state(student)
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    gone = [key for key in state if key not in kept]
    assert gone and all(key.endswith("pos_embed.pe") or not state[key].any() for key in gone)
    assert len({state[key].data_ptr() for key in state}) == len(state)


def test_a_network_is_told_by_what_it_computes_alone(make_unet, tmp_path: Path) -> None:
    """Evidence moves with the processor that measured it; weights and removals make another network."""

    def told(name: str, evidence: dict[str, Any], removed: list[str], factor: float = 1.0) -> str:
        unet = remove_units(make_unet(levels=2, layers=1), removed)
        with torch.no_grad():
            unet.mid_block.motion_modules[0].proj_out.weight.mul_(factor)
        return network_digest(pruned_adapter.save_pruned(unet, tmp_path / name, evidence=evidence))

    first = told("first", {"distance_after": 0.25}, ["down_0_0"])
    assert told("again", {"distance_after": 0.26}, ["down_0_0"]) == first
    others = {told("weights", {}, ["down_0_0"], 1.5), told("removed", {}, ["down_0_0", "up_0_0"]), told("none", {}, [])}
    assert len(others | {first}) == 4
    (tmp_path / "first/config.json").write_text("{}")
    with pytest.raises(LeanmotionError, match="corrupt"):
        network_digest(tmp_path / "first")
