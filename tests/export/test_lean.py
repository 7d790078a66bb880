"""Stock pipelines made lighter in place: the same clips, fewer parameters, nothing else taken."""

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from models import make_adapter
from stock_pipelines import MIXED, WHOLE, draw, pruned, stock, write_forms
from torch import nn

from leanmotion import lean
from leanmotion.errors import LeanmotionError
from leanmotion.model.motion_norm import motion_norm, set_motion_norm
from leanmotion.model.original_format import load_adapter, write_original
from leanmotion.model.pruned_adapter import save_portable, save_pruned
from leanmotion.model.removal import remove_units, removed_units
from leanmotion.model.units import block_ids, parameters

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def forms(tmp_path_factory, teacher_folder) -> dict[str, SimpleNamespace]:
    folder = tmp_path_factory.mktemp("forms")
    return {
        name: write_forms(folder / name, teacher_folder(), ids) for name, ids in (("whole", WHOLE), ("mixed", MIXED))
    }


@pytest.mark.parametrize("name", ["whole", "mixed"])
@pytest.mark.parametrize("listed", [True, False])
def test_the_same_clips_with_the_parameters_of_the_pruned_form(forms, name: str, listed: bool) -> None:
    form, pipeline = forms[name], stock(forms[name])
    before, whole = draw(pipeline), parameters(pipeline.unet)
    saved = lean(pipeline, form.pruned if listed else None)
    wanted = pruned(form)
    assert np.array_equal(draw(pipeline), before) and np.array_equal(before, draw(wanted))
    assert removed_units(pipeline.unet) == removed_units(wanted.unet) == list(saved.units)
    assert parameters(pipeline.unet) == parameters(wanted.unet) == whole - (saved.before - saved.after)
    assert saved.bytes == 4 * (saved.before - saved.after)
    assert f"{saved.before:,} -> {saved.after:,}" in str(saved) and "up_3_2" in str(saved)
    # What is left is heard: a second call finds nothing, and takes nothing.
    again = lean(pipeline)
    assert not again.units and again.after == again.before == saved.after and "nothing is silent" in str(again)


def test_two_silent_attention_layers_are_no_silent_block(make_unet) -> None:
    """Their feed-forward is left."""
    unet = make_unet()
    block = unet.down_blocks[0].motion_modules[0].transformer_blocks[0]
    with torch.no_grad():
        for layer in (block.attn1.to_out[0], block.attn2.to_out[0]):
            layer.weight.zero_()
            layer.bias.zero_()
    assert lean(SimpleNamespace(unet=unet)).units == ("down_0_0-block0-attn1", "down_0_0-block0-attn2")
    assert lean(SimpleNamespace(unet=unet)).units == ()


def test_the_original_form_and_any_pipeline_class(forms, tmp_path) -> None:
    adapter = make_adapter()
    remove_units(adapter, WHOLE)
    file = write_original(adapter, tmp_path / "mm.ckpt")
    base = diffusers.StableDiffusionPipeline.from_pretrained(forms["whole"].base)
    unet: Any = diffusers.UNetMotionModel.from_unet2d(base.unet, load_adapter(file))
    pipeline = stock(forms["whole"], "AnimateDiffVideoToVideoPipeline")
    pipeline.unet = unet
    assert lean(pipeline).units == tuple(WHOLE)
    assert type(pipeline).__name__ == "AnimateDiffVideoToVideoPipeline"


def test_it_then_takes_free_noise_and_saves_what_loads(forms, unet_inputs, tmp_path) -> None:
    pipeline = stock(forms["whole"])
    lean(pipeline)
    with torch.no_grad():
        wanted = pipeline.unet(**unet_inputs).sample
    pipeline.save_pretrained(tmp_path / "saved")
    again = diffusers.AnimateDiffPipeline.from_pretrained(tmp_path / "saved")
    assert type(again) is diffusers.AnimateDiffPipeline
    with torch.no_grad():
        torch.testing.assert_close(again.unet(**unet_inputs).sample, wanted, rtol=0, atol=1e-5)
    pipeline.enable_free_noise(context_length=4, context_stride=2)
    assert draw(pipeline, num_frames=18).shape[0] == 18


def test_the_folder_tells_the_norm(forms, make_unet, tmp_path) -> None:
    unet = set_motion_norm(remove_units(make_unet(), WHOLE), "frame")
    save_pruned(unet, tmp_path / "pruned")
    pipeline = stock(forms["whole"])
    lean(pipeline, tmp_path / "pruned")
    assert motion_norm(pipeline.unet) == "frame"


def test_nothing_is_left(teacher_folder, tmp_path) -> None:
    adapter = make_adapter()
    remove_units(adapter, block_ids(adapter))
    form = SimpleNamespace(
        base=teacher_folder().base,
        pruned=save_pruned(adapter, tmp_path / "pruned"),
        portable=save_portable(adapter, tmp_path / "portable"),
    )
    pipeline = stock(form)
    before = draw(pipeline)
    assert lean(pipeline).after == 0 and np.array_equal(draw(pipeline), before)


def test_a_layer_with_a_lora_is_heard(make_unet) -> None:
    unet = make_unet()
    for block in ("down_0_0", "down_0_1"):
        module = unet.down_blocks[0].motion_modules[int(block[-1])]
        nn.init.zeros_(module.proj_out.weight)
        nn.init.zeros_(module.proj_out.bias)
    module.proj_out = nn.Sequential(module.proj_out)  # as peft, another module in its place
    assert lean(SimpleNamespace(unet=unet)).units == ("down_0_0",)


def test_what_cannot_be_done_gets_one_line(forms, teacher_folder) -> None:
    base = diffusers.StableDiffusionPipeline.from_pretrained(teacher_folder().base)
    with pytest.raises(LeanmotionError, match="unet is a UNet2DConditionModel"):
        lean(base)
    with pytest.raises(LeanmotionError, match="unet is a NoneType"):
        lean(SimpleNamespace())
    pipeline = stock(forms["whole"])
    # Another adapter's weights: what that folder lists is heard here.
    with pytest.raises(LeanmotionError, match=r"down_1_0-block0, which .* has removed, is not silent here"):
        lean(pipeline, forms["mixed"].pruned)
    assert removed_units(pipeline.unet) == []
    pipeline.unet.to("meta")
    with pytest.raises(LeanmotionError, match="offloaded"):
        lean(pipeline)
