"""Removal against references that compute the same without removing anything: equal bit for bit.

A zeroed projection adds +0 to a residual, which changes no float but -0 to +0, and `torch.equal` takes these as equal.
"""

import copy
import random

import pytest
import torch

from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import LeanTransformerBlock, Skip, remove_units, removed_units, without_units
from leanmotion.model.units import block_ids, list_units, parameters

pytestmark = pytest.mark.numeric

BLOCKS = [
    *(f"down_{i}_{j}" for i in range(4) for j in range(2)),
    "mid_0",
    *(f"up_{i}_{j}" for i in range(4) for j in range(3)),
]


@pytest.fixture(scope="module")
def shared(make_unet, make_inputs):
    """One UNet for all comparisons here (tests change it only within `without_units` or on a copy), inputs, output."""
    unet, inputs = make_unet(), make_inputs()
    return unet, inputs, call(unet, inputs)


def call(unet, inputs):
    with torch.no_grad():
        return unet(**inputs).sample


def silenced(unet, ids):
    """The reference: a copy that computes everything, and whose units `ids` change nothing."""
    unet = copy.deepcopy(unet)
    addresses = {unit.id: (unit.granularity, unit.address) for unit in list_units(unet)}
    for granularity, address in (addresses[i] for i in ids):
        module = unet.get_submodule(address)
        if granularity == "transformer_block":
            module.register_forward_hook(lambda _, args, kwargs, out: kwargs["hidden_states"], with_kwargs=True)
            continue
        last = module.proj_out if granularity == "temporal_transformer" else module.to_out[0]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    return unet


def check(shared, ids):
    unet, inputs, full = shared
    sizes = {unit.id: unit.parameters for unit in list_units(unet)}
    whole = parameters(unet)
    with without_units(unet, ids):
        assert sorted(removed_units(unet)) == sorted(ids)
        assert parameters(unet) == whole - sum(sizes[i] for i in ids)
        lean = call(unet, inputs)
    assert torch.equal(lean, call(silenced(unet, ids), inputs))
    assert torch.equal(lean, full) == (not ids), "this unit did nothing even before its removal: a weak test"


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_equals_zeroed_proj_out(shared, block):
    check(shared, [block])


@pytest.mark.parametrize("block", ["down_0_0", "down_3_1", "mid_0", "up_0_0", "up_1_2", "up_3_2"])
@pytest.mark.parametrize("suffix", ["-block0", "-block0-attn1", "-block0-attn2"])
def test_inner_units_equal_their_references(shared, block, suffix):
    check(shared, [block + suffix])


@pytest.mark.parametrize("seed", range(12))
def test_random_subsets_of_all_granularities(shared, seed):
    draw = random.Random(seed)
    ids = []
    for block in draw.sample(BLOCKS, draw.randint(1, len(BLOCKS))):
        ids += draw.choice(
            [
                [block],
                [f"{block}-block0"],
                [f"{block}-block0-attn1"],
                [f"{block}-block0-attn2"],
                [f"{block}-block0-attn1", f"{block}-block0-attn2"],
            ]
        )
    check(shared, ids)


def test_nothing_removed_changes_nothing(shared):
    check(shared, [])


def test_everything_removed_equals_a_unet_without_motion(shared):
    """Frames of one clip then are images of one batch, to `UNet2DConditionModel` with the same weights.

    Not the same bits: other classes, with other memory formats. Float32 with some 100 layers of rounding, each 6e-8
    of values of order 1, that add up like a random walk or, at worst, linearly: 100 * 6e-8 < 1e-5.
    """
    from models import make_unet2d

    unet, inputs, _ = shared
    with without_units(unet, BLOCKS):
        assert block_ids(unet) == [] and removed_units(unet) == BLOCKS
        assert not [name for name in unet.state_dict() if "motion_modules" in name]
        lean = call(unet, inputs)
    images = inputs["sample"].permute(0, 2, 1, 3, 4).flatten(0, 1)
    plain = make_unet2d()
    with torch.no_grad():
        expected = plain(images, inputs["timestep"], inputs["encoder_hidden_states"]).sample
    torch.testing.assert_close(lean[0].transpose(0, 1), expected, atol=1e-5, rtol=1e-5)
    assert parameters(plain) == parameters(unet) - sum(u.parameters for u in list_units(unet, "temporal_transformer"))


def test_resnets_still_run(tiny_unet, unet_inputs):
    """A shorter list of motion modules would drop, without a word, the resnet that it is zipped with."""
    ran = []
    resnets = [name for name, module in tiny_unet.named_modules() if type(module).__name__ == "ResnetBlock2D"]
    for name in resnets:
        tiny_unet.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    remove_units(tiny_unet, BLOCKS)
    call(tiny_unet, unet_inputs)
    assert sorted(ran) == sorted(resnets) and len(ran) == 22


def test_removed_attention_is_neither_held_nor_computed(tiny_unet, unet_inputs):
    block = "down_blocks.1.motion_modules.0.transformer_blocks.0"
    inner = {name for name in tiny_unet.state_dict() if name.startswith(block)}
    whole = set(tiny_unet.state_dict())
    remove_units(tiny_unet, ["down_1_0-block0-attn2"])
    assert whole - set(tiny_unet.state_dict()) == {n for n in inner if ".attn2." in n or ".norm2." in n}
    ran = []
    for name, module in tiny_unet.get_submodule(block).named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name.split(".")[0]))
    call(tiny_unet, unet_inputs)
    assert set(ran) == {"", "norm1", "attn1", "pos_embed", "norm3", "ff"} and ran.count("pos_embed") == 1
    # With its sister gone too, nothing needs the positions; a later call may take what is left, the block.
    remove_units(tiny_unet, ["down_1_0-block0-attn1"])
    kept = {name.removeprefix(f"{block}.").split(".")[0] for name in tiny_unet.state_dict() if name.startswith(block)}
    assert kept == {"norm3", "ff"}
    assert removed_units(tiny_unet) == ["down_1_0-block0-attn1", "down_1_0-block0-attn2"]
    remove_units(tiny_unet, ["down_1_0-block0"])
    assert removed_units(tiny_unet) == ["down_1_0-block0"]
    remove_units(tiny_unet, ["down_1_0"])
    assert removed_units(tiny_unet) == ["down_1_0"]


def test_state_dict_goes_from_one_pruned_unet_to_another(make_unet, unet_inputs):
    ids = ["down_0_1", "mid_0-block0", "up_2_1-block0-attn1"]
    one, other = remove_units(make_unet(), ids), remove_units(make_unet(seed=7), ids)
    assert not torch.equal(call(one, unet_inputs), call(other, unet_inputs))
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(call(one, unet_inputs), call(other, unet_inputs))


def test_gradient_checkpointing_trains_what_is_left(tiny_unet, unet_inputs):
    """The mid block calls through the checkpoint by position, `motion_module(h, None, None, None, frames, None)`."""
    remove_units(tiny_unet, ["down_0_0", "mid_0", "up_1_1-block0", "up_3_2-block0-attn1"])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            tiny_unet.enable_gradient_checkpointing()
        tiny_unet.train().zero_grad()
        tiny_unet(**unet_inputs).sample.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in tiny_unet.named_parameters() if p.grad is not None})
    # Everything gets a gradient but what a Skip cut off: nothing, since what surrounds it keeps its own path, except
    # the norm and proj_in of a motion module whose blocks are gone: they still feed proj_out.
    assert set(gradients[0]) == set(gradients[1]) == {name for name, _ in tiny_unet.named_parameters()}
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_feed_forward_chunking_reaches_a_lean_block(tiny_unet, unet_inputs):
    remove_units(tiny_unet, ["up_3_2-block0-attn1"])
    plain = call(tiny_unet, unet_inputs)
    tiny_unet.enable_forward_chunking(chunk_size=1, dim=1)
    (lean,) = (module for module in tiny_unet.modules() if isinstance(module, LeanTransformerBlock))
    assert lean._chunk_size == 1
    # Slices of a matrix product may be rounded otherwise: 1e-5, as above.
    torch.testing.assert_close(call(tiny_unet, unet_inputs), plain, atol=1e-5, rtol=1e-5)


def test_several_prompts_and_layers_per_block(make_inputs):
    from diffusers import UNetMotionModel
    from models import TEXT_WIDTH, seeded

    def make():
        return UNetMotionModel(
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=TEXT_WIDTH,
            num_attention_heads=2,
            motion_num_attention_heads=2,
            temporal_transformer_layers_per_block=2,
            reverse_temporal_transformer_layers_per_block=2,
        )

    unet, inputs = seeded(0, make).eval(), make_inputs(batch=3)
    assert "up_1_1-block1-attn2" in {unit.id for unit in list_units(unet)}
    check((unet, inputs, call(unet, inputs)), ["up_1_1-block1-attn2", "down_0_0-block0", "mid_0"])


def test_without_units_puts_the_same_modules_back(tiny_unet, unet_inputs):
    modules, full = list(tiny_unet.modules()), call(tiny_unet, unet_inputs)
    with (
        pytest.raises(ZeroDivisionError),
        without_units(tiny_unet, ["down_0_0-block0-attn1", "down_0_0-block0-attn2", "up_0_0"]),
    ):
        raise ZeroDivisionError
    assert all(a is b for a, b in zip(modules, tiny_unet.modules(), strict=True))
    assert removed_units(tiny_unet) == [] and torch.equal(full, call(tiny_unet, unet_inputs))


def test_skip_takes_keywords_and_positionals():
    x = torch.ones(2)
    assert Skip()(x, num_frames=3) is x and Skip()(hidden_states=x, timestep=None) is x
    assert Skip()(x, None, None, None, 3, None) is x and parameters(Skip()) == 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["down_0_9"], r"no unit 'down_0_9' \(did you mean 'down_0_\d'\?\)"),
        (["nonsense"], "no unit 'nonsense'$"),
        (["down_0_0-block7"], "no unit 'down_0_0-block7'"),
        (["mid_0", "mid_0"], "'mid_0' is given twice"),
        (["mid_0", "mid_0-block0-attn1"], "'mid_0-block0-attn1' lies inside 'mid_0': give one"),
        (["mid_0-block0-attn1", "mid_0-block0"], "'mid_0-block0-attn1' lies inside 'mid_0-block0': give one"),
        (["up_3_2"], "'up_3_2' is already removed"),
        (["up_3_2-block0"], "'up_3_2-block0' lies inside 'up_3_2', already removed"),
        (["up_3_1-block0-attn1"], "'up_3_1-block0-attn1' is already removed"),
    ],
)
def test_wrong_ids_say_so_and_change_nothing(tiny_unet, ids, message):
    before = ["up_3_1-block0-attn1", "up_3_2"]
    remove_units(tiny_unet, before)
    with pytest.raises(LeanmotionError, match=message):
        remove_units(tiny_unet, ["down_1_1", *ids])
    assert removed_units(tiny_unet) == before


def test_an_unknown_kind_of_block_is_refused(tiny_unet):
    tiny_unet.mid_block.motion_modules[0].transformer_blocks[0].norm_type = "ada_norm"
    with pytest.raises(LeanmotionError, match="ada_norm"):
        remove_units(tiny_unet, ["mid_0-block0-attn1"])
    assert remove_units(tiny_unet, ["mid_0-block0"]) is tiny_unet
