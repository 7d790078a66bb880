"""Calls from a motion module on equal whole calls, and leave the UNet as it was."""

from typing import Any

import pytest
import torch
from models import micro_unet

from leanmotion.errors import LeanmotionError
from leanmotion.influence.partial_calls import PartialCalls, parts_of
from leanmotion.model.removal import without_units
from leanmotion.model.units import list_units


@torch.inference_mode()
def test_a_call_from_a_block_on_is_the_whole_call_bit_for_bit(make_unet: Any, make_inputs: Any) -> None:
    unet, inputs = make_unet(levels=2, layers=1), make_inputs(batch=2)
    units = list_units(unet)
    whole = {}
    for unit in units:
        with without_units(unet, [unit.id]):
            whole[unit.id] = unet(**inputs, return_dict=False)[0]
    full = unet(**inputs, return_dict=False)[0]
    with PartialCalls(unet) as calls:
        assert torch.equal(calls.whole(inputs), full)
        for unit in units:
            with without_units(unet, [unit.id]):
                assert torch.equal(calls.after(unit.block, inputs), whole[unit.id]), unit.id
        assert torch.equal(calls.after("up_1_1", inputs), full)
    assert torch.equal(unet(**inputs, return_dict=False)[0], full)


@torch.inference_mode()
def test_what_lies_before_is_not_computed(tiny_unet: Any, unet_inputs: Any) -> None:
    ran: list[str] = []
    with PartialCalls(tiny_unet) as calls:
        calls.whole(unet_inputs)
        order = calls.before("up_3_2")
        assert order[:3] == ["conv_in", "down_blocks.0.resnets.0", "down_blocks.0.attentions.0"]
        assert calls.before("down_0_0") == order[:3]
        # Each part once: nothing of the UNet's way is missing but its last motion module and what follows it.
        assert len(order) == len(set(order)) == len(parts_of(tiny_unet)) - 1
        for address in order:
            module = tiny_unet.get_submodule(address)
            for inner in module.children():
                inner.register_forward_hook(lambda *_, name=address: ran.append(name))
        calls.after("up_3_2", unet_inputs)
        assert not ran
        calls.after("up_3_1", unet_inputs)
        assert set(ran) <= {"up_blocks.3.motion_modules.1", "up_blocks.3.resnets.2", "up_blocks.3.attentions.2"}


def test_the_unet_is_given_back_as_it_was() -> None:
    unet = micro_unet()
    module = unet.get_submodule("down_blocks.0.resnets.0")
    own = module.forward
    module.forward = own  # as libraries do that move weights on demand
    with PartialCalls(unet) as calls:
        assert module.forward is not own
        with pytest.raises(LeanmotionError, match="mid_0"):
            calls.after("mid_0", {})
    assert module.__dict__["forward"] is own
    others = [unet.get_submodule(address) for address in parts_of(unet)]
    assert [other for other in others if "forward" in other.__dict__] == [module]
