"""Where weights lie in memory: what a file maps anywhere is moved, so that the same weights give the same bytes."""

import pytest
import torch
from diffusers import MotionAdapter, StableDiffusionPipeline, UNetMotionModel
from torch import nn

from leanmotion.model.pruned_adapter import apply_pruned, save_pruned
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline.alignment import ALIGNMENT, align
from leanmotion.pipeline.settings import Teacher

pytestmark = pytest.mark.numeric


def displace(module: nn.Module, offset: int) -> nn.Module:
    """The same values at addresses `offset` numbers past an aligned one, as a file's header may put them."""
    for tensor in (*module.parameters(), *module.buffers()):
        room = torch.empty(offset + tensor.numel(), dtype=tensor.dtype)
        tensor.data = room[offset:].view(tensor.shape).copy_(tensor.data)
    return module


def places(module: nn.Module) -> set[int]:
    return {tensor.data_ptr() % ALIGNMENT for tensor in module.state_dict().values()}


@pytest.mark.parametrize("offset", [1, 2, 4, 8])
def test_displaced_weights_give_the_same_bytes_once_aligned(make_unet, unet_inputs, offset):
    """Without `align` they do not on every processor (on one: 6e-7 apart at offsets 1 and 2, equal at 4 and 8)."""
    plain, moved = make_unet(), displace(make_unet(), offset)
    assert places(moved) == {4 * offset}
    align(moved)
    assert places(moved) == {0}
    with torch.no_grad():
        assert torch.equal(moved(**unet_inputs).sample, plain(**unet_inputs).sample)


def test_a_pruned_unet_is_aligned_and_shares_what_it_shared(teacher_folder, tmp_path):
    folder = teacher_folder(levels=2, layers=1)
    unet2d = StableDiffusionPipeline.from_pretrained(folder.base).unet
    whole = UNetMotionModel.from_unet2d(unet2d, MotionAdapter.from_pretrained(folder.adapter))
    pruned = apply_pruned(displace(unet2d, 1), save_pruned(whole, tmp_path / "pruned"))  # pyright: ignore
    assert places(pruned) == places(unet2d) == {0}
    theirs = {key: value.data_ptr() for key, value in unet2d.state_dict().items()}
    ours = pruned.state_dict()
    assert theirs and all(ours[key].data_ptr() == address for key, address in theirs.items())


def test_every_part_of_a_teacher_is_aligned(teacher_folder):
    folder = teacher_folder(levels=2, layers=1)
    pipeline = load_pipeline(Teacher(base=str(folder.base), adapter=str(folder.adapter)))
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert places(part) == {0}
