"""Pruned adapters in each of diffusers' pipelines, under FreeNoise and FreeInit, saved again: as the portable form."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from models import make_adapter
from stock_pipelines import MIXED, VIDEO, WHOLE, controlnet, draw, pruned, sparse_controlnet, stock, write_forms
from torch import nn

from leanmotion.errors import LeanmotionError
from leanmotion.model.motion_norm import motion_norm, set_motion_norm
from leanmotion.model.original_format import load_adapter, write_original
from leanmotion.model.pruned_adapter import load_pruned_pipeline, save_portable, save_pruned
from leanmotion.model.pruned_pipeline import PIPELINES, checked_class
from leanmotion.model.removal import remove_units
from leanmotion.model.units import block_ids

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def forms(tmp_path_factory, teacher_folder) -> dict[str, SimpleNamespace]:
    """Without whole blocks, and without parts of some as well."""
    folder = tmp_path_factory.mktemp("forms")
    return {
        name: write_forms(folder / name, teacher_folder(), ids) for name, ids in (("whole", WHOLE), ("mixed", MIXED))
    }


# Class by class

CALLS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "AnimateDiffPipeline": (dict, {}),
    "AnimateDiffVideoToVideoPipeline": (dict, {"video": VIDEO, "strength": 0.9}),
    "AnimateDiffControlNetPipeline": (lambda: {"controlnet": controlnet()}, {"conditioning_frames": VIDEO}),
    "AnimateDiffVideoToVideoControlNetPipeline": (
        lambda: {"controlnet": controlnet()},
        {"video": VIDEO, "conditioning_frames": VIDEO, "strength": 0.9},
    ),
    "AnimateDiffSparseControlNetPipeline": (
        lambda: {"controlnet": sparse_controlnet()},
        {"conditioning_frames": VIDEO[:1], "controlnet_frame_indices": [0]},
    ),
    "AnimateDiffPAGPipeline": (lambda: {"pag_applied_layers": ["mid"]}, {"guidance_scale": 2.0, "pag_scale": 2.0}),
}
"""Class -> what it takes beside a base's parts, and what its call takes."""


@pytest.mark.parametrize("kind", PIPELINES)
def test_each_class_draws_what_it_draws_of_the_portable_form(forms, kind: str) -> None:
    more, said = CALLS[kind]
    for form in forms.values():
        made = pruned(form, kind, **more())
        assert type(made).__name__ == kind and isinstance(made, getattr(diffusers, kind))
        assert np.array_equal(draw(made, **said), draw(stock(form, kind, **more()), **said))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("AnimateDiffSDXLPipeline", "AnimateDiffSDXLPipeline is for SDXL"),
        ("PIAPipeline", "PIAPipeline takes PIA's own UNet"),
        ("StableDiffusionPipeline", "StableDiffusionPipeline takes no motion UNet"),
        ("AnimateDiffControlNetPipeline", "needs a controlnet: give controlnet=..."),
    ],
)
def test_another_class_is_refused_in_one_line(forms, kind: str, said: str) -> None:
    with pytest.raises(LeanmotionError, match=said) as caught:
        pruned(forms["whole"], kind)
    assert "\n" not in str(caught.value)


def test_a_name_is_no_class() -> None:
    with pytest.raises(LeanmotionError, match="pipeline_class: 'AnimateDiffPAGPipeline' is no class: give one of"):
        inspect.unwrap(checked_class)("AnimateDiffPAGPipeline", {})  # as without the tests' own check of types


def test_defaults_of_the_evidence_fit_what_a_call_gives(forms, tmp_path) -> None:
    """Frames come from the video or from a ControlNet's pictures, not from the evidence; all else as it was judged."""
    form, scheduler = forms["whole"], diffusers.EulerDiscreteScheduler()
    config = {"_class_name": "EulerDiscreteScheduler", **scheduler.config}
    judged = {"frames": 3, "height": 32, "width": 32, "steps": 1, "guidance": 1.0, "negative": "dull",
              "scheduler": {k: v for k, v in config.items() if k != "_diffusers_version"}}  # fmt: skip
    adapter = remove_units(diffusers.MotionAdapter.from_pretrained(form.portable), WHOLE)
    form = SimpleNamespace(base=form.base, pruned=save_pruned(adapter, tmp_path / "judged", judged=judged))
    for kind, said, frames in (
        ("AnimateDiffPipeline", {}, 3),
        ("AnimateDiffVideoToVideoPipeline", {"video": VIDEO, "strength": 1.0}, 4),
        ("AnimateDiffControlNetPipeline", {"conditioning_frames": VIDEO}, 4),
        # Its pictures are of single frames: of the first one, where none is named.
        ("AnimateDiffSparseControlNetPipeline", {"conditioning_frames": VIDEO[:1]}, 3),
    ):
        made = pruned(form, kind, **CALLS[kind][0]())
        assert type(made.scheduler) is diffusers.EulerDiscreteScheduler
        made.set_progress_bar_config(disable=True)
        assert made(prompt="a cat", output_type="np", **said).frames[0].shape == (frames, 32, 32, 3)
    with pytest.raises(LeanmotionError, match="num_frames 20: the adapter has positions for 16"):
        pruned(form, "AnimateDiffVideoToVideoPipeline")(prompt="a cat", video=VIDEO * 5)


# Long clips

WINDOWS: dict[str, Any] = {"context_length": 4, "context_stride": 2}


def test_free_noise_around_blocks_that_are_gone(forms) -> None:
    one, other = pruned(forms["whole"]), stock(forms["whole"])
    short = draw(one)
    other.motion_adapter = diffusers.MotionAdapter.from_pretrained(forms["whole"].portable)
    for pipeline in (one, other):
        pipeline.enable_free_noise(**WINDOWS)
    # Longer than the adapter has positions for.
    assert np.array_equal(draw(one, num_frames=18), draw(other, num_frames=18))
    one.enable_free_noise_split_inference(spatial_split_size=16, temporal_split_size=3)
    # Slices go through other kernels: 1e-6 a layer.
    np.testing.assert_allclose(draw(one, num_frames=18), draw(other, num_frames=18), rtol=0, atol=1e-4)
    again = pruned(forms["whole"])
    again.enable_free_noise(context_length=None)
    again.disable_free_noise()
    assert np.array_equal(draw(again), short)
    with pytest.raises(LeanmotionError, match="num_frames 18: the adapter has positions for 16"):
        draw(again, num_frames=18)


def test_free_noise_without_a_middle_block(teacher_folder, tmp_path) -> None:
    """As in v1 and v3; and with all others gone."""
    for name, gone in (("some", ["up_3_2"]), ("all", block_ids(make_adapter(mid=False)))):
        folder = save_pruned(remove_units(make_adapter(mid=False), gone), tmp_path / name)
        pipeline = load_pruned_pipeline(folder, base=teacher_folder().base)
        short = draw(pipeline)
        pipeline.enable_free_noise(**WINDOWS)
        pipeline.disable_free_noise()
        assert np.array_equal(draw(pipeline), short)


def test_free_noise_refuses_what_it_cannot_do(forms) -> None:
    pipeline = pruned(forms["mixed"])
    for enable in (pipeline.enable_free_noise, pipeline.enable_free_noise_split_inference):
        with pytest.raises(LeanmotionError, match="down_1_0-block0 was removed from one: load the portable form"):
            enable()
    with pytest.raises(LeanmotionError, match="context_length 17: the adapter has positions for 16"):
        pruned(forms["whole"]).enable_free_noise(context_length=17)


@pytest.mark.parametrize("name", ["whole", "mixed"])
def test_free_init(forms, name: str) -> None:
    clips = []
    for pipeline in (pruned(forms[name]), stock(forms[name])):
        pipeline.enable_free_init(num_iters=2, use_fast_sampling=False)
        clips.append(draw(pipeline))
    assert np.array_equal(*clips)


# Saving again


def call(unet: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return unet.eval()(**inputs).sample


@pytest.mark.parametrize("name", ["whole", "mixed"])
def test_what_diffusers_saves_loads_as_the_same(forms, unet_inputs, tmp_path: Path, name: str) -> None:
    pipeline = pruned(forms[name], "AnimateDiffVideoToVideoPipeline")
    wanted = call(pipeline.unet, unet_inputs)
    pipeline.save_pretrained(tmp_path / "pipeline")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert type(again) is diffusers.AnimateDiffVideoToVideoPipeline
    pipeline.unet.save_pretrained(tmp_path / "unet", variant="fp32")
    pipeline.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded/unet").glob("*.safetensors"))) > 1
    sharded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "sharded")
    pipeline.unet.save_motion_modules(tmp_path / "adapter")
    adapter = diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter")
    base = diffusers.StableDiffusionPipeline.from_pretrained(forms[name].base)
    loaded: Any
    for loaded in (
        again.unet,
        sharded.unet,
        diffusers.UNetMotionModel.from_pretrained(tmp_path / "unet", variant="fp32"),
        diffusers.UNetMotionModel.from_unet2d(base.unet, adapter),
    ):
        # Weights lie elsewhere, so that kernels may take another path: 1e-6 of values of order 1.
        torch.testing.assert_close(call(loaded, unet_inputs), wanted, rtol=0, atol=1e-5)


SAVING: dict[str, Callable[[Any, Path], object]] = {
    "save_pretrained": lambda pipeline, folder: pipeline.save_pretrained(folder),
    "unet.save_pretrained": lambda pipeline, folder: pipeline.unet.save_pretrained(folder),
    "unet.save_motion_modules": lambda pipeline, folder: pipeline.unet.save_motion_modules(folder),
}


@pytest.mark.parametrize("save", SAVING.values(), ids=SAVING)
def test_what_no_folder_of_diffusers_says_is_refused(forms, tmp_path: Path, save) -> None:
    pipeline = pruned(forms["whole"])
    set_motion_norm(pipeline.unet, "frame")
    with pytest.raises(LeanmotionError, match="save_pruned"):
        save(pipeline, tmp_path / "saved")
    save_pruned(pipeline.unet, tmp_path / "pruned")
    assert motion_norm(load_pruned_pipeline(tmp_path / "pruned", base=forms["whole"].base).unet) == "frame"


class Wrapped(nn.Module):
    """A layer with a LoRA that is not fused, under the names that peft gives."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"x": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"x": nn.Linear(2, layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B["x"](self.lora_A["x"](x))


def wrap(unet: Any) -> None:
    attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    attention.to_q = Wrapped(attention.to_q)


def test_layers_of_others_are_not_saved(forms, tmp_path: Path) -> None:
    pipeline = pruned(forms["whole"])
    wrap(pipeline.unet)
    with pytest.raises(LeanmotionError, match="layers of others"):
        pipeline.unet.save_pretrained(tmp_path / "saved")


# What a base or an adapter holds already


def with_ip_adapter(pipeline: Any) -> Any:
    generator, width = torch.Generator().manual_seed(3), pipeline.unet.config.cross_attention_dim

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    layers = {}
    widths = pipeline.unet.config.block_out_channels
    names = [
        n for n in pipeline.unet.attn_processors if not n.endswith("attn1.processor") and "motion_modules" not in n
    ]
    for i, name in enumerate(names):
        part, level, *_ = name.split(".")
        size = widths[-1] if part == "mid_block" else (widths if part == "down_blocks" else widths[::-1])[int(level)]
        layers |= {f"{2 * i + 1}.to_{what}_ip.weight": random(size, width) for what in "kv"}
    image = {"proj.weight": random(4 * width, 8), "proj.bias": random(4 * width), "norm.weight": 1 + random(width),
             "norm.bias": random(width)}  # fmt: skip
    pipeline.load_ip_adapter(
        {"image_proj": image, "ip_adapter": layers}, subfolder="", weight_name="x", image_encoder_folder=None
    )
    return pipeline


def test_an_ip_adapter_goes_into_the_pipeline_not_into_the_base(forms) -> None:
    form = forms["whole"]
    image = {"ip_adapter_image_embeds": [torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(8))]}
    base = with_ip_adapter(diffusers.StableDiffusionPipeline.from_pretrained(form.base))
    with pytest.raises(LeanmotionError, match="holds an IP-Adapter: unload_ip_adapter"):
        load_pruned_pipeline(form.pruned, base=base)
    base.unload_ip_adapter()
    pipeline = load_pruned_pipeline(form.pruned, base=base)
    plain = draw(pipeline)
    drawn = draw(with_ip_adapter(pipeline), **image)
    assert np.array_equal(drawn, draw(with_ip_adapter(stock(form)), **image))
    assert np.abs(drawn - plain).max() > 1e-3


def test_a_lora_in_the_base_is_refused_by_name(forms) -> None:
    base = diffusers.StableDiffusionPipeline.from_pretrained(forms["whole"].base)
    wrap(base.unet)
    with pytest.raises(LeanmotionError, match=r"a LoRA that is not fused.*fuse_lora\(\) and unload_lora_weights\(\)"):
        load_pruned_pipeline(forms["whole"].pruned, base=base)


@pytest.mark.parametrize(("name", "safe"), [("whole", True), ("mixed", False)])
def test_a_motion_lora_wakes_silent_parts_of_a_block_but_no_whole_one(forms, unet_inputs, name, safe) -> None:
    """It adds to the weights of attention layers, and knows nothing of those before and after."""
    outputs = []
    for pipeline in (pruned(forms[name]), stock(forms[name])):
        with torch.no_grad():
            for key, value in pipeline.unet.named_parameters():
                if "motion_modules" in key and ".attn" in key and key.endswith("weight"):
                    generator = torch.Generator().manual_seed(sum(key.encode()))
                    value.add_(0.2 * torch.randn(value.shape, generator=generator))
        outputs.append(call(pipeline.unet, unet_inputs))
    assert torch.equal(*outputs) is safe
    assert safe or (outputs[0] - outputs[1]).abs().max() > 1e-3


def test_an_adapter_without_any_block_is_written(tmp_path: Path) -> None:
    adapter = make_adapter()
    remove_units(adapter, block_ids(adapter))
    save_portable(adapter, tmp_path / "portable")
    for suffix in (".safetensors", ".ckpt"):
        write_original(adapter, tmp_path / f"mm{suffix}")
    loaded = [diffusers.MotionAdapter.from_pretrained(tmp_path / "portable")]
    loaded += [load_adapter(tmp_path / f"mm{suffix}") for suffix in (".safetensors", ".ckpt")]
    for one in loaded:
        assert block_ids(one) == block_ids(make_adapter())
        assert not any(value.any() for key, value in one.state_dict().items() if not key.endswith("pos_embed.pe"))
