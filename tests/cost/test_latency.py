"""Measured time of rounds, beside what single removals foretell."""

import pytest
from tiny import BLOCKS, tiny_settings

from leanmotion.cost.latency import latency_rows, round_latency_rows
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline.schemas import SCHEMAS


@pytest.fixture(scope="module")
def settings(teacher_folder):
    return tiny_settings(teacher_folder(levels=2, layers=1))


@pytest.fixture(scope="module")
def pipeline(settings):
    return load_pipeline(settings.teacher)


def test_the_prediction_adds_up_the_shares_of_single_removals(pipeline, settings, monkeypatch) -> None:
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


def test_every_block_is_timed_alone(pipeline, settings, monkeypatch) -> None:
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    rows = latency_rows(pipeline, settings)
    assert [row["variant"] for row in rows] == ["full", *BLOCKS, "none"]
    assert [row["blocks"] for row in rows] == [0, *[1] * len(BLOCKS), len(BLOCKS)]
    assert set(rows[0]) == set(SCHEMAS["profile"].names)
    assert rows[-1]["parameters"] < min(row["parameters"] for row in rows[:-1])
