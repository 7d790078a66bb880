import copy
from contextlib import nullcontext

import pytest
import torch

from leanmotion.cost.macs import unet_inputs, unet_macs
from leanmotion.cost.timing import measure_latency, paired_savings, without_variants
from leanmotion.model.removal import remove_units, removed_units
from leanmotion.model.units import block_ids, list_units


def attention_macs(tokens, frames, c):
    """Four projections, scores and weighted sum: each token meets `frames` others, twice."""
    return tokens * (4 * c**2 + 2 * frames * c)


def block_macs(tokens, frames, c):
    """Two attentions and a feed-forward: c -> 2 * 4c (geglu), 4c -> c."""
    return 2 * attention_macs(tokens, frames, c) + tokens * 12 * c**2


def motion_macs(tokens, frames, c):
    return block_macs(tokens, frames, c) + tokens * 2 * c**2


@pytest.fixture(scope="module")
def small(make_unet):
    return make_unet(levels=2, layers=1)


def test_macs_of_every_unit_by_hand(small):
    frames, size, batch = 6, 8, 2
    macs = unet_macs(small, frames=frames, height=size, width=2 * size, batch=batch, tokens=5)
    by_hand = {"temporal_transformer": motion_macs, "transformer_block": block_macs, "attention": attention_macs}
    for unit in list_units(small):
        tokens = batch * frames * (size >> unit.depth) * (2 * size >> unit.depth)
        assert macs[unit.id] == by_hand[unit.granularity](tokens, frames, unit.channels), unit.id
    assert macs["motion"] == sum(macs[block] for block in block_ids(small)) < macs["total"]


def test_macs_of_the_whole_fall_by_the_units(make_unet):
    unet, shape = make_unet(levels=2, layers=1), {"frames": 4, "height": 8, "width": 8}
    full = unet_macs(unet, **shape)  # pyright: ignore
    remove_units(unet, ["down_0_0", "up_1_1-block0-attn1"])
    lean = unet_macs(unet, **shape)  # pyright: ignore
    assert full["total"] - lean["total"] == full["down_0_0"] + full["up_1_1-block0-attn1"]
    remove_units(unet, block_ids(unet))
    assert unet_macs(unet, **shape)["total"] == full["total"] - full["motion"]  # pyright: ignore
    assert unet_macs(unet, **shape)["motion"] == 0  # pyright: ignore


def test_counting_on_meta_agrees_with_counting_what_runs(small):
    """With attention in plain matrix products: the counter does not know the fused attention kernel of CPUs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    before = copy.deepcopy(small.state_dict())
    shape = {"frames": 4, "height": 8, "width": 8, "tokens": 5}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        small(**unet_inputs(small, **shape))  # pyright: ignore
    assert unet_macs(small, **shape)["total"] == counter.get_total_flops() // 2  # pyright: ignore
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_the_real_model_on_meta():
    """SD 1.5 with the v2 adapter, 512 x 512 x 16: sizes and GMAC per block as counted by hand.

    A block of c channels on n tokens: 22 c^2 + 64 c MACs a token (16 frames), e.g. 149.0 G at 320 on 16 * 64 * 64.
    """
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        unet = UNetMotionModel(sample_size=64, cross_attention_dim=768)
    blocks = list_units(unet, "temporal_transformer")
    assert sum(unit.parameters for unit in blocks) == 453_209_280
    assert {unit.channels: unit.parameters for unit in blocks} == {320: 2_259_520, 640: 9_024_640, 1280: 36_071_680}
    macs = unet_macs(unet, frames=16, height=64, width=64)
    expected = {"down_0_0": 149.0, "up_2_1": 148.3, "down_2_1": 148.0, "mid_0": 37.0, "up_0_2": 37.0, "up_3_0": 149.0}
    for block, giga in expected.items():
        assert macs[block] / 1e9 == pytest.approx(giga, abs=0.05)  # printed to one decimal
    for unit in blocks:
        assert macs[unit.id] == motion_macs(16 * (64 >> unit.depth) ** 2, 16, unit.channels)
    assert macs["motion"] / 1e9 == pytest.approx(2448, abs=0.5)


def test_inputs_have_the_shapes_of_a_pipeline(small):
    inputs = unet_inputs(small, frames=3, height=8, width=16, batch=2, tokens=5)
    assert inputs["sample"].shape == (2, 4, 3, 8, 16) and inputs["encoder_hidden_states"].shape == (6, 5, 16)
    assert torch.equal(inputs["sample"], unet_inputs(small, frames=3, height=8, width=16, batch=2)["sample"])
    assert small(**inputs).sample.shape == inputs["sample"].shape


def test_variants_remove_outside_the_clock_and_put_back(small, monkeypatch):
    inputs = unet_inputs(small, frames=2, height=4, width=4)
    seen = []
    small_forward = small.forward
    monkeypatch.setattr(small, "forward", lambda **kw: seen.append(removed_units(small)) or small_forward(**kw))
    removals = {"full": [], "a": ["mid_0"], "b": ["up_0_0-block0-attn1"], "none": block_ids(small)}
    clock = iter(map(float, range(1000)))
    variants = without_variants(small, inputs, removals)
    rows = measure_latency(variants, rounds=2, warmup=0, clock=lambda: (seen.append("clock"), next(clock))[1])
    # The clock is read right before and right after each call: nothing is removed or put back between.
    calls = [step for row in rows for step in ("full", row["variant"])]
    assert seen == [step for name in calls for step in ("clock", removals[name], "clock")]
    assert removed_units(small) == []


class Clock:
    """Time that only the variants move: each by its own cost, under a load that grows with every call."""

    def __init__(self):
        self.now, self.calls, self.order = 0.0, 0, []

    def __call__(self):
        return self.now

    def work(self, name, cost):
        def run():
            self.calls += 1
            self.order.append(name)
            self.now += cost + 0.01 * self.calls

        return lambda: nullcontext(run)


def test_latency_is_interleaved_and_drift_cancels():
    clock, waits = Clock(), []
    costs = {"full": 1.0, "a": 0.8, "b": 1.0, "none": 0.4}
    variants = {name: clock.work(name, cost) for name, cost in costs.items()}
    options = {"rounds": 40, "warmup": 2, "seed": 3, "clock": clock}
    rows = measure_latency(variants, **options, synchronise=lambda: waits.append(1))
    assert len(rows) == 160 and clock.calls == 42 * 8 and len(waits) == 2 * clock.calls
    # Each right after a call of the whole.
    assert set(clock.order[::2]) == {"full"}
    order = clock.order[1::2]
    rounds = [order[i : i + 4] for i in range(0, len(order), 4)]
    assert all(sorted(names) == sorted(costs) for names in rounds) and len({tuple(n) for n in rounds}) > 10
    assert [row["round"] for row in rows] == sorted(row["round"] for row in rows)
    assert [row["variant"] for row in rows] == order[8:]  # without the warm-up
    savings = {row["variant"]: row for row in paired_savings(rows)}
    assert list(savings) == ["full", "a", "b", "none"]
    # Two calls side by side differ by 0.01 of drift, while it grew by 3.2 over all rounds.
    for name, cost in costs.items():
        row = savings[name]
        assert row["saving"] == pytest.approx(1.0 - cost - 0.01)
        assert row["saving_low"] == pytest.approx(row["saving_high"]) and row["rounds"] == 40
    again = Clock()
    measure_latency({name: again.work(name, cost) for name, cost in costs.items()}, **{**options, "clock": again})
    assert again.order == clock.order


def test_paired_savings_by_hand():
    pairs = {"full": [(2.0, 2.0), (3.0, 3.0), (9.0, 10.0)], "x": [(2.0, 1.5), (4.0, 3.0), (10.0, 9.0)]}
    rows = [
        {"variant": name, "round": i, "reference_seconds": before, "seconds": seconds}
        for name, values in pairs.items()
        for i, (before, seconds) in enumerate(values)
    ]
    noise, row = paired_savings(rows)
    assert (noise["variant"], noise["saving"], noise["saving_low"], noise["saving_high"]) == ("full", 0.0, -0.5, 0.0)
    assert (row["seconds"], row["saving"], row["saving_low"], row["saving_high"]) == (3.0, 1.0, 0.75, 1.0)
    assert row["saving_fraction"] == pytest.approx(1 / 4)  # of 1/4, 1/4 and 1/10
    with pytest.raises(KeyError):
        paired_savings(rows, "none")


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="0 variants"):
        measure_latency({}, rounds=1)
    with pytest.raises(ValueError, match="1 variants against full"):
        measure_latency({"a": nullcontext}, rounds=1)  # pyright: ignore
    with pytest.raises(ValueError, match="0 rounds"):
        measure_latency({"full": nullcontext}, rounds=0)  # pyright: ignore


def test_the_folder_on_disk_is_a_stock_pipeline_with_its_adapter(teacher_folder):
    """What other tests build on: diffusers' own pipeline takes base and adapter, uses them, and draws frames."""
    import numpy as np
    from diffusers import AnimateDiffPipeline, MotionAdapter

    folder = teacher_folder(levels=2, layers=1)
    adapter = MotionAdapter.from_pretrained(folder.adapter)
    pipeline = AnimateDiffPipeline.from_pretrained(folder.base, motion_adapter=adapter)
    pipeline.set_progress_bar_config(disable=True)
    assert len(block_ids(pipeline.unet)) == 7
    weights = pipeline.unet.state_dict()
    assert all(torch.equal(weights[n], v) for n, v in adapter.state_dict().items() if "motion_modules" in n)

    def frames():
        options = {"num_frames": 4, "height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
        return pipeline("a red ball", **options, generator=torch.Generator().manual_seed(0)).frames  # pyright: ignore

    full = frames()
    assert np.asarray(full).shape == (1, 4, 32, 32, 3)
    remove_units(pipeline.unet, ["down_0_0", "mid_0"])
    assert not np.array_equal(full, frames())  # pyright: ignore
    assert teacher_folder(levels=2, layers=1).base == folder.base
