"""What is handed over for ComfyUI, against a stand-in for AnimateDiff-Evolved (tests/clients.py)."""

import ast
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clients import EvolvedModel, EvolvedTransformer, Patcher, value_schedule
from published import WIDTHS, published

from leanmotion.export import comfyui, comfyui_node

FRAMES = 4
REMOVED = ["down_0_0", "down_2_1", "mid_0", "up_3_2"]


def silenced(mid: bool) -> dict[str, torch.Tensor]:
    """A file as `write_original` writes it: all of a removed block is zero."""
    state = published(mid=mid, length=8)
    for block in REMOVED:
        level, _, i = block.rpartition("_")
        place = ("mid_block" if level == "mid" else level.replace("_", "_blocks.")) + f".motion_modules.{i}."
        state |= {k: torch.zeros_like(v) for k, v in state.items() if k.startswith(place) and "pos_encoder" not in k}
    return state


def clips(model: EvolvedModel) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    widths = [module.temporal_transformer.norm.num_channels for module in model.modules_in_order]
    return [torch.randn(2 * FRAMES, width, 3, 3, generator=generator) for width in widths]


def skip(patcher: Patcher) -> Patcher:
    """The node as ComfyUI calls it."""
    kind = comfyui_node.NODE_CLASS_MAPPINGS["LeanmotionSkipSilenced"]
    assert kind.INPUT_TYPES() == {"required": {"motion_model": ("MOTION_MODEL_ADE",)}}
    out = getattr(kind(), kind.FUNCTION)(motion_model=patcher)
    assert len(out) == len(kind.RETURN_TYPES)
    return out[0]


@pytest.fixture(params=[True, False], ids=["v2", "without a mid block"])
def loaded(request) -> Patcher:
    return Patcher(EvolvedModel(silenced(request.param), WIDTHS))


def transformers(model: Any) -> list[Any]:
    return [
        m.temporal_transformer for m in model.modules_in_order if isinstance(m.temporal_transformer, EvolvedTransformer)
    ]


def equal(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_values_skip_the_removed_blocks_and_change_no_bit(loaded) -> None:
    model = loaded.model
    before = model.sample_step(FRAMES, inputs := clips(model))
    calls = [transformer.calls for transformer in transformers(model)]
    model.set_per_block(value_schedule(comfyui.value_schedule(REMOVED)))
    assert equal(model.sample_step(FRAMES, inputs), before)
    computed = [now.calls - then for now, then in zip(transformers(model), calls, strict=True)]
    gone = REMOVED if model.mid_block else [b for b in REMOVED if b != "mid_0"]
    assert (
        sum(computed) == len(computed) - len(gone) == sum(not comfyui_node.is_silenced(t) for t in transformers(model))
    )


def test_the_node_drops_silenced_blocks_and_changes_no_bit(loaded, caplog) -> None:
    caplog.set_level(logging.INFO)
    model, size = loaded.model, loaded.model_size()
    before = model.sample_step(FRAMES, inputs := clips(model))
    count = len(transformers(model))
    dropped = skip(loaded)
    gone = 4 if model.mid_block else 3
    assert f"{gone} silenced" in caplog.text
    assert dropped is not loaded and dropped.model is model
    assert equal(model.sample_step(FRAMES, inputs), before)
    assert len(transformers(model)) == count - gone
    assert dropped.model_size() == sum(value.nbytes for value in model.state_dict().values()) < size
    # Once more in the same workflow, or a second workflow with the same file: ComfyUI keeps what it has loaded.
    assert skip(dropped).model_size() == dropped.model_size() and equal(model.sample_step(FRAMES, inputs), before)


@pytest.mark.parametrize("effect", [0.0, 0.5, torch.linspace(0, 1, 2 * FRAMES).view(-1, 1, 1, 1)])
def test_effects_and_image_features_stay_what_they_were(loaded, effect: Any) -> None:
    """They are the module's around the temporal transformer: the first block is a dropped one."""
    model = loaded.model
    inputs = clips(model)
    for module in model.modules_in_order:
        module.effect = effect
    model.modules_in_order[0].img_features = torch.ones_like(inputs[0])
    before = model.sample_step(FRAMES, inputs)
    skip(loaded)
    assert equal(model.sample_step(FRAMES, inputs), before)


def test_what_a_lora_patched_in_a_dropped_block_is_not_put_back(loaded) -> None:
    """ComfyUI restores weights by their keys: one of a block that is gone would stop it."""
    inner = "temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight"
    loaded.backup |= {f"down_blocks.0.motion_modules.{i}.{inner}": torch.ones(1) for i in (0, 1)}
    skip(loaded)
    assert list(loaded.backup) == [f"down_blocks.0.motion_modules.1.{inner}"]
    assert next(iter(loaded.backup)) in loaded.model.state_dict()


def test_a_block_with_motionctrl_is_left(loaded) -> None:
    """Evolved asks the very first block whether MotionCtrl is there."""
    first = loaded.model.modules_in_order[0].temporal_transformer
    first.transformer_blocks[0].cc_projection = torch.nn.Linear(1, 1)
    skip(loaded)
    assert loaded.model.modules_in_order[0].temporal_transformer is first


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = EvolvedModel(silenced(True), WIDTHS).to(dtype)
    assert comfyui_node.drop_silenced(model, {}) == 4


@pytest.mark.parametrize("change", ["proj_out.weight", "proj_out.bias"])
def test_one_value_that_is_not_zero_keeps_a_block(change: str) -> None:
    model = EvolvedModel(silenced(True), WIDTHS)
    with torch.no_grad():
        model.get_parameter(f"mid_block.motion_modules.0.temporal_transformer.{change}").view(-1)[3] = 1e-30
    assert comfyui_node.drop_silenced(model, {}) == 3


def test_a_model_without_silenced_blocks_is_left_and_said_so(caplog) -> None:
    model = EvolvedModel(published(mid=True, length=8), WIDTHS)
    keys = set(model.state_dict())
    skip(Patcher(model))
    assert set(model.state_dict()) == keys
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "leanmotion: 0 silenced motion blocks are skipped")
    ]


def test_an_encoder_alone_has_no_blocks() -> None:
    """Evolved makes such models for AnimateLCM-I2V and CameraCtrl."""
    model = SimpleNamespace(down_blocks=None, up_blocks=None, mid_block=None)
    assert comfyui_node.drop_silenced(model, {}) == 0


def test_the_node_stands_alone() -> None:
    """ComfyUI's Python has torch; it has no leanmotion, and `comfy` is not needed."""
    tree = ast.parse(Path(comfyui_node.__file__).read_text(encoding="utf-8"))
    found = {name for node in ast.walk(tree) for name in (
        [alias.name for alias in node.names] if isinstance(node, ast.Import)
        else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
    )}  # fmt: skip
    assert found == {"collections.abc", "logging", "types", "typing", "torch"}


def test_the_order_is_evolveds() -> None:
    """down_0__0 is 0, down_3__1 is 7, mid is 8, up_0__0 is 9, up_3__2 is 20 (nodes_per_block.py)."""
    floats = value_schedule(comfyui.value_schedule(["down_0_0", "down_3_1", "mid_0", "up_0_0", "up_3_2"]))
    assert [i for i, value in enumerate(floats) if value == 0] == [0, 7, 8, 9, 20]
    assert set(floats) == {0.0, 1.0} and len(floats) == 21


JUDGED = {
    "frames": 16, "height": 512, "width": 768, "steps": 25, "guidance": 7.5, "negative": "blurred",
    "scheduler": {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "timestep_spacing": "leading"},
}  # fmt: skip
OUTPUTS = {
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"), "ADE_LoadAnimateDiffModel": ("MOTION_MODEL_ADE",),
    "ADE_ValueScheduling": ("FLOAT", "FLOATS", "INT", "INTS"), "ADE_PerBlock_SD15_FromFloats": ("PER_BLOCK",),
    "ADE_ApplyAnimateDiffModelSimple": ("M_MODELS",), "ADE_UseEvolvedSampling": ("MODEL",),
    "CLIPTextEncode": ("CONDITIONING",), "EmptyLatentImage": ("LATENT",), "KSampler": ("LATENT",),
    "VAEDecode": ("IMAGE",), "SaveAnimatedWEBP": (), "ADE_RawSigmaSchedule": ("SIGMA_SCHEDULE",),
    "ADE_AnimateDiffSamplingSettings": ("SAMPLE_SETTINGS",),
}  # fmt: skip
LINKS = {
    "effect_21_floats": "FLOATS", "motion_model": "MOTION_MODEL_ADE", "per_block": "PER_BLOCK", "m_models": "M_MODELS",
    "model": "MODEL", "clip": "CLIP", "vae": "VAE", "positive": "CONDITIONING", "negative": "CONDITIONING",
    "latent_image": "LATENT", "samples": "LATENT", "images": "IMAGE", "sigma_schedule": "SIGMA_SCHEDULE",
    "sample_settings": "SAMPLE_SETTINGS",
}  # fmt: skip
"""Of the nodes at ComfyUI 0.3.64 and Evolved d8d163c: what each puts out, and what each linked input takes."""


V_NODES = {"ADE_RawSigmaSchedule", "ADE_AnimateDiffSamplingSettings"}


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_every_link_of_the_workflow_fits(predicts: str) -> None:
    judged = {**JUDGED, "scheduler": {**JUDGED["scheduler"], "prediction_type": predicts}}
    nodes = comfyui.workflow(REMOVED, judged, "base.safetensors")
    wanted = (
        [*OUTPUTS, "CLIPTextEncode"] if predicts == "v_prediction" else [*(OUTPUTS.keys() - V_NODES), "CLIPTextEncode"]
    )
    assert sorted(node["class_type"] for node in nodes.values()) == sorted(wanted)
    assert nodes["checkpoint"]["inputs"] == {"ckpt_name": "base.safetensors"}
    for node in nodes.values():
        links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
        assert links.keys() == node["inputs"].keys() & LINKS.keys()
        for name, (source, output) in links.items():
            assert OUTPUTS[nodes[source]["class_type"]][output] == LINKS[name]
    assert value_schedule(nodes["values"]["inputs"]["values"])[8] == 0.0
    sample = nodes["sample"]["inputs"]
    assert (sample["steps"], sample["cfg"], sample["sampler_name"], sample["scheduler"]) == (
        25,
        7.5,
        "ddim",
        "ddim_uniform",
    )
    assert nodes["noise"]["inputs"] == {"width": 768, "height": 512, "batch_size": 16}
    assert nodes["negative"]["inputs"]["text"] == "blurred"
    assert nodes["evolved"]["inputs"]["beta_schedule"] == "sqrt_linear (AnimateDiff)"


@pytest.mark.parametrize(
    ("kind", "betas", "sampler", "schedule"),
    [
        ("LCMScheduler", "linear", "lcm", "lcm >> sqrt_linear"),
        ("EulerDiscreteScheduler", "scaled_linear", "euler", "linear (HotshotXL/default)"),
        ("DDIMScheduler", "squaredcos_cap_v2", "ddim", "autoselect"),
    ],
)
def test_samplers_in_comfyuis_words(kind: str, betas: str, sampler: str, schedule: str) -> None:
    judged = {**JUDGED, "scheduler": {"_class_name": kind, "beta_schedule": betas}}
    nodes = comfyui.workflow([], judged, "base.safetensors")
    assert nodes["sample"]["inputs"]["sampler_name"] == sampler
    assert nodes["evolved"]["inputs"]["beta_schedule"] == schedule


def test_a_base_that_predicts_v_is_told_so() -> None:
    """By a sigma schedule, the one place where Evolved takes a prediction; its betas are the base's."""
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.001,
        "beta_end": 0.02,
        "prediction_type": "v_prediction",
    }
    for betas, raw in (("linear", "sqrt_linear"), ("scaled_linear", "linear"), ("squaredcos_cap_v2",) * 2):
        judged = {**JUDGED, "scheduler": {**scheduler, "beta_schedule": betas}}
        nodes = comfyui.workflow([], judged, "base.safetensors")
        assert nodes["sigmas"]["inputs"] == {
            "raw_beta_schedule": raw, "linear_start": 0.001, "linear_end": 0.02, "sampling": "v_prediction",
            "lcm_original_timesteps": 50, "zsnr": False,
        }  # fmt: skip
        assert nodes["evolved"]["inputs"]["sample_settings"] == ["settings", 0]
    assert "sample_settings" not in comfyui.workflow([], JUDGED, "base.safetensors")["evolved"]["inputs"]


@pytest.mark.parametrize(
    ("base", "file"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "v1-5-pruned-emaonly.safetensors"),
        ("emilianJR/epiCRealism", "epiCRealism.safetensors"),
        ("models/dream.ckpt", "dream.ckpt"),
        ("data/teacher/base/", "base.safetensors"),
    ],
)
def test_the_checkpoint_has_the_bases_name(base: str, file: str) -> None:
    assert comfyui.checkpoint_file(base) == file


def test_which_adapters_comfyui_takes() -> None:
    assert comfyui.has_its_blocks(comfyui.BLOCKS)
    assert comfyui.has_its_blocks([block for block in comfyui.BLOCKS if block != "mid_0"])
    assert not comfyui.has_its_blocks(comfyui.BLOCKS[:-1])
    assert not comfyui.has_its_blocks([*comfyui.BLOCKS, "up_4_0"])
