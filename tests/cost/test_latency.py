"""Measured time of rounds, beside what single blocks foretell, and of each block."""

import pytest
import torch
from tiny import BLOCKS, tiny_settings

from leanmotion.cost import latency
from leanmotion.cost.in_call import WATCHED
from leanmotion.cost.latency import latency_rows, round_latency_rows
from leanmotion.cost.macs import unet_macs
from leanmotion.cost.timing import Clock
from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import without_units
from leanmotion.model.sampler import latent_shape
from leanmotion.model.teacher import load_pipeline
from leanmotion.model.units import parameters
from leanmotion.pipeline.schemas import SCHEMAS


@pytest.fixture(scope="module")
def settings(teacher_folder):
    return tiny_settings(teacher_folder(levels=2, layers=1))


@pytest.fixture(scope="module")
def pipeline(settings):
    return load_pipeline(settings.teacher)


def test_the_prediction_adds_up_the_shares_of_single_blocks(pipeline, settings, monkeypatch) -> None:
    """Shares of this run's call, not seconds of the other run: a clock twice as slow predicts twice the seconds."""
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    shares = {block: 0.01 * (i + 1) for i, block in enumerate(BLOCKS)}
    rounds = {"r1": ["mid_0"], "r2": ["mid_0", "up_1_1"]}
    rows = {row["variant"]: row for row in round_latency_rows(pipeline, settings, rounds, shares)}
    call = rows["full"]["seconds"]
    predicted = {name: pytest.approx(call * sum(shares[b] for b in gone)) for name, gone in rounds.items()}
    predicted |= {"full": 0, "none": pytest.approx(call * sum(shares.values()))}
    assert {name: row["predicted"] for name, row in rows.items()} == predicted
    assert set(rows["r1"]) == set(SCHEMAS["latency"].names)


def test_every_block_has_a_row(pipeline, settings, monkeypatch) -> None:
    """Beside the whole, the whole with clocks, and none; parameters and MACs are those of a UNet without the block."""
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    rows = latency_rows(pipeline, settings)
    assert [row["variant"] for row in rows] == ["full", WATCHED, *BLOCKS, "none"]
    assert [row["blocks"] for row in rows] == [0, 0, *[1] * len(BLOCKS), len(BLOCKS)]
    assert all(row["rounds"] == settings.profile.rounds for row in rows)
    assert all(set(row) == set(SCHEMAS["profile"].names) and None not in row.values() for row in rows)
    _, frames, height, width = latent_shape(pipeline, settings.sampling)
    size = {"frames": frames, "height": height, "width": width, "tokens": pipeline.tokenizer.model_max_length}
    for name, removed in (("full", []), (WATCHED, []), ("mid_0", ["mid_0"]), ("none", BLOCKS)):
        row = next(row for row in rows if row["variant"] == name)
        with without_units(pipeline.unet, removed):
            macs = unet_macs(pipeline.unet, **size, units=[])["total"]
            assert (row["parameters"], row["macs"]) == (parameters(pipeline.unet), macs)


def test_calls_have_the_threads_of_the_sampler(pipeline, teacher_folder, monkeypatch) -> None:
    """Shares of a chunk lie side by side with a thread each, so a call has one, though hooks will be on its modules."""
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    settings = tiny_settings(teacher_folder(levels=2, layers=1), sampling={"chunk": 2, "threads": 2})
    seen, inner = [], latency.device_clock
    monkeypatch.setattr(latency, "device_clock", lambda name: (seen.append(torch.get_num_threads()), inner(name))[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        latency_rows(pipeline, settings)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_wrong_time_of_a_call_stops_it_and_leaves_no_hook(pipeline, settings, monkeypatch) -> None:
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    clock = latency.device_clock("cpu")
    for odd in (Clock("no number", lambda: float("nan"), mark=clock.mark), Clock("still", clock.now, mark=lambda: 1.0)):
        monkeypatch.setattr(latency, "device_clock", lambda name, odd=odd: odd)
        with pytest.raises(LeanmotionError, match=r"UNet call.*this clock tells no time$"):
            latency_rows(pipeline, settings)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipeline.unet.modules())
