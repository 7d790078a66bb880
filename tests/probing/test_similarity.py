import math

import pytest
import torch

from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import remove_units
from leanmotion.model.units import list_units
from leanmotion.probing.similarity import Moments, SimilarityRecorder, measure_similarity, token_cosines
from leanmotion.probing.similarity_tables import AUTHORS_RANGES, similarity_ranges

pytestmark = pytest.mark.numeric

BLOCK = "down_blocks.0.motion_modules.0"


@pytest.fixture(scope="module")
def small(make_unet):
    """Seven motion blocks; tests that change weights take `tiny_unet`."""
    return make_unet(levels=2, layers=1)


def sample(unet, *calls):
    def run():
        for inputs in calls:
            with torch.no_grad():
                unet(**inputs)

    return run


def of(rows, unit):
    (row,) = (row for row in rows if row["unit"] == unit)
    return row


def test_token_cosines_closed_forms():
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(token_cosines(x, x, -1), torch.ones(3, 5))
    assert torch.equal(token_cosines(x, -x, 1), -torch.ones(3, 7))
    assert torch.equal(token_cosines(x, 4 * x, -1), torch.ones(3, 5))  # a power of two: exact
    assert torch.equal(token_cosines(x, torch.zeros_like(x), -1), torch.zeros(3, 5))
    axes = token_cosines(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]]), -1)
    # One rounding each in a sum, a root and a quotient: 1e-6 is some ten of float32's.
    torch.testing.assert_close(axes, torch.tensor([0.0, math.sqrt(0.5)]), atol=1e-6, rtol=0)
    half = token_cosines(x.bfloat16(), x.bfloat16(), -1)
    assert half.dtype == torch.float32 and torch.equal(half, torch.ones(3, 5))


def test_moments_are_those_of_the_whole():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for part in x.split(37):
        moments.add(part)
    # Sums in float64 of numbers of order 1: rounding far below 1e-12.
    assert moments.count == 1000
    assert moments.mean == pytest.approx(x.double().mean().item(), abs=1e-12)
    assert moments.std == pytest.approx(x.double().std(correction=0).item(), abs=1e-12)


def test_zeroed_and_negated_projections(tiny_unet, unet_inputs):
    """proj_out = 0 gives output = input: cosine exactly 1. Output = -input: exactly -1, from a hook."""
    zeroed, negated = tiny_unet.get_submodule(BLOCK), tiny_unet.up_blocks[3].motion_modules[2]
    torch.nn.init.zeros_(zeroed.proj_out.weight)
    torch.nn.init.zeros_(zeroed.proj_out.bias)
    negated.register_forward_hook(lambda module, args, kwargs, output: -args[0], with_kwargs=True)
    rows = measure_similarity(tiny_unet, sample(tiny_unet, unet_inputs))
    assert of(rows, "down_0_0")["cosine"] == 1.0 and of(rows, "down_0_0")["cosine_std"] == 0.0
    assert of(rows, "up_3_2")["cosine"] == -1.0
    other = [row for row in rows if row["granularity"] == "temporal_transformer"]
    assert len(other) == 21 and sum(abs(row["cosine"]) == 1.0 for row in other) == 2


def test_attention_in_out_and_effect_on_its_stream(tiny_unet, unet_inputs):
    """A silent attention has no direction (0) and leaves its stream alone (1); one that returns -x / 2 points at -1."""
    blocks = tiny_unet.get_submodule(BLOCK).transformer_blocks[0]
    torch.nn.init.zeros_(blocks.attn1.to_out[0].weight)
    torch.nn.init.zeros_(blocks.attn1.to_out[0].bias)
    received = []

    def answer(module, args, kwargs, output):
        received.append(args[0])
        return -0.5 * args[0]

    blocks.attn2.register_forward_hook(answer, with_kwargs=True)
    stream = []
    blocks.norm2.register_forward_pre_hook(lambda module, args: stream.append(args[0]))
    rows = measure_similarity(tiny_unet, sample(tiny_unet, unet_inputs))
    silent, answering = of(rows, "down_0_0-block0-attn1"), of(rows, "down_0_0-block0-attn2")
    assert silent["cosine"] == 0.0 and silent["residual_cosine"] == 1.0
    assert answering["cosine"] == -1.0
    expected = torch.nn.functional.cosine_similarity(stream[0], stream[0] - 0.5 * received[0], dim=-1).mean()
    assert answering["residual_cosine"] == pytest.approx(expected.item(), abs=1e-6)  # one float32 formula or other


def test_against_a_plain_reference(small, make_inputs):
    """Same numbers as cosines taken from tensors kept whole; the mean over two prompts in a batch and two calls."""
    calls = [make_inputs(batch=2, seed=1), make_inputs(batch=2, seed=2)]
    kept = {unit.id: [] for unit in list_units(small)}
    handles = []
    for unit in list_units(small):
        dim = 1 if unit.granularity == "temporal_transformer" else 2

        def keep(module, args, kwargs, output, unit=unit, dim=dim):
            given = args[0] if args else kwargs["hidden_states"]
            kept[unit.id].append(torch.nn.functional.cosine_similarity(given, output, dim=dim).flatten())

        handles.append(small.get_submodule(unit.address).register_forward_hook(keep, with_kwargs=True))
    rows = measure_similarity(small, sample(small, *calls))
    for handle in handles:
        handle.remove()
    assert [row["unit"] for row in rows] == list(kept)
    for row in rows:
        values = torch.cat(kept[row["unit"]]).double()
        assert row["count"] == len(values)
        assert row["cosine"] == pytest.approx(values.mean().item(), abs=1e-6)
        assert row["cosine_std"] == pytest.approx(values.std(correction=0).item(), abs=1e-5)
        assert (row["residual_cosine"] is not None) == (row["granularity"] == "attention")
    size = 2 * 2 * 4 * 8 * 8  # calls, prompts, frames, height, width
    assert of(rows, "down_0_0")["count"] == of(rows, "down_0_0-block0-attn1")["count"] == size
    assert of(rows, "mid_0")["count"] == size // 4


def test_kept_per_timestep_in_sampling_order(small, make_inputs):
    steps = [900, 500, 100]
    with SimilarityRecorder(small) as recorder:
        for timestep in steps:
            inputs = make_inputs(timestep=timestep)
            with torch.no_grad():  # by position too, and as a tensor per sample or a plain number
                small(inputs["sample"], torch.tensor([timestep]), inputs["encoder_hidden_states"])
                small(inputs["sample"], timestep=timestep, encoder_hidden_states=inputs["encoder_hidden_states"])
    rows = [row for row in recorder.rows() if row["unit"] == "up_0_0"]
    assert [row["timestep"] for row in rows] == steps
    assert len({row["cosine"] for row in rows}) == 3
    assert all(row["count"] == 2 * 4 * 4 * 4 for row in rows)  # two calls of four frames of 4 x 4


def test_removed_units_are_not_recorded_and_hooks_go(make_unet, unet_inputs):
    unet = remove_units(make_unet(levels=2, layers=1), ["down_0_0", "mid_0-block0", "up_0_0-block0-attn1"])
    rows = measure_similarity(unet, sample(unet, unet_inputs))
    names = {row["unit"] for row in rows}
    assert names == {unit.id for unit in list_units(unet)} and "up_0_0-block0-attn2" in names
    assert not any(name.startswith("down_0_0") for name in names)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_recording_changes_nothing(small, unet_inputs):
    with torch.no_grad():
        plain = small(**unet_inputs).sample
        with SimilarityRecorder(small):
            recorded = small(**unet_inputs).sample
    assert torch.equal(plain, recorded)


def test_ranges_stand_beside_the_authors(small, make_inputs):
    rows = measure_similarity(small, sample(small, make_inputs(timestep=9), make_inputs(timestep=1)))
    table = similarity_ranges(rows)
    assert [(row["granularity"], row["measure"], row["units"]) for row in table] == [
        ("temporal_transformer", "in_out", 7),
        ("transformer_block", "in_out", 7),
        ("attention", "in_out", 14),
        ("attention", "residual", 14),
    ]
    for row in table:
        assert -1 <= row["min"] <= row["median"] <= row["max"] <= 1
        known = AUTHORS_RANGES[row["granularity"]] if row["measure"] == "in_out" else (None, None)
        assert (row["authors_min"], row["authors_max"]) == known


def test_ranges_by_hand():
    values = {"a": (0.2, 0.4), "b": (0.9, 0.7), "c": (0.5, 0.5)}
    rows = [
        {"unit": unit, "granularity": "temporal_transformer", "cosine": v, "residual_cosine": math.nan}
        for unit, pair in values.items()
        for v in pair
    ]
    (row,) = similarity_ranges(rows)
    assert (row["min"], row["median"], row["max"]) == pytest.approx((0.3, 0.5, 0.8))


def test_misuse_says_so(small, unet_inputs):
    with SimilarityRecorder(small) as recorder:
        pass
    with pytest.raises(LeanmotionError, match="no call of the UNet"):
        recorder.rows()
    with pytest.raises(ValueError, match="several"), SimilarityRecorder(small):
        small(**{**unet_inputs, "timestep": torch.tensor([1, 2])})
