from collections import Counter

import pytest
from models import make_adapter

from leanmotion.model.removal import remove_units
from leanmotion.model.units import block_ids, list_units, parameters


def test_sd15_topology_has_21_blocks_in_forward_order(tiny_unet):
    downs = [f"down_{i}_{j}" for i in range(4) for j in range(2)]
    ups = [f"up_{i}_{j}" for i in range(4) for j in range(3)]
    assert block_ids(tiny_unet) == [*downs, "mid_0", *ups]
    assert Counter(unit.granularity for unit in list_units(tiny_unet)) == {
        "temporal_transformer": 21,
        "transformer_block": 21,
        "attention": 42,
    }


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [({"levels": 2}, 11), ({"levels": 2, "layers": 1}, 7), ({"mid": False}, 20)],
)
def test_other_topologies(make_unet, kwargs, count):
    unet = make_unet(**kwargs)
    assert len(block_ids(unet)) == count
    assert ("mid_0" in block_ids(unet)) == kwargs.get("mid", True)


def test_addresses_depths_channels_and_sizes(tiny_unet):
    classes = {
        "temporal_transformer": "AnimateDiffTransformer3D",
        "transformer_block": "BasicTransformerBlock",
        "attention": "Attention",
    }
    units = list_units(tiny_unet)
    assert len({unit.id for unit in units}) == len({unit.address for unit in units}) == len(units)
    for unit in units:
        module = tiny_unet.get_submodule(unit.address)
        assert type(module).__name__ == classes[unit.granularity]
        assert unit.id.startswith(unit.block) and "." not in unit.id
        extra = 2 * unit.channels if unit.granularity == "attention" else 0  # its LayerNorm's weight and bias
        assert unit.parameters == parameters(module) + extra
    by_id = {unit.id: unit for unit in units}
    assert [by_id[i].depth for i in ("down_0_0", "down_3_1", "mid_0", "up_0_0", "up_3_2")] == [0, 3, 3, 3, 0]
    assert [by_id[i].channels for i in ("down_0_0", "down_2_0", "mid_0", "up_3_2")] == [8, 16, 16, 8]
    assert by_id["up_3_2-block0-attn2"].address == "up_blocks.3.motion_modules.2.transformer_blocks.0.attn2"


def test_sizes_by_hand(tiny_unet):
    """C channels: 4 c^2 + c an attention and 2 c its norm; 12 c^2 + 9 c the feed-forward (geglu, 8 c and c of bias)
    and 2 c its norm; 2 c^2 + 2 c the projections and 2 c the group norm.
    """
    for unit in list_units(tiny_unet):
        c = unit.channels
        attention = 4 * c**2 + c + 2 * c
        block = 2 * attention + 12 * c**2 + 9 * c + 2 * c
        by_hand = {"attention": attention, "transformer_block": block}
        assert unit.parameters == by_hand.get(unit.granularity, block + 2 * c**2 + 4 * c)


def test_granularity_filter_and_adapter(tiny_unet):
    only = list_units(tiny_unet, "attention")
    assert len(only) == 42 and {unit.granularity for unit in only} == {"attention"}
    assert list_units(make_adapter()) == list_units(tiny_unet)


def test_removed_units_are_not_listed(tiny_unet):
    before = list_units(tiny_unet)
    remove_units(tiny_unet, ["down_0_0", "mid_0-block0", "up_3_2-block0-attn1"])
    gone = {unit.id for unit in before} - {unit.id for unit in list_units(tiny_unet)}
    assert gone == {
        *("down_0_0", "down_0_0-block0", "down_0_0-block0-attn1", "down_0_0-block0-attn2"),
        *("mid_0-block0", "mid_0-block0-attn1", "mid_0-block0-attn2"),
        "up_3_2-block0-attn1",
    }
    assert "down_0_0" not in block_ids(tiny_unet) and "mid_0" in block_ids(tiny_unet)


def test_a_module_without_motion_has_no_units():
    from torch import nn

    assert list_units(nn.Linear(2, 2)) == [] and block_ids(nn.Linear(2, 2)) == []
