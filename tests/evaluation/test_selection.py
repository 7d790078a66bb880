"""The stop rule on hand-made evidence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.selection import BASE, RoundEvidence, knee, select


def rounds(*excess: float, spread: float = 0.1) -> list[RoundEvidence]:
    return [
        RoundEvidence(
            f"r{4 * i:02d}", 4 * i, macs=100.0 - 4 * i, excess=e, excess_low=e - spread, excess_high=e + spread
        )
        for i, e in enumerate(excess, 1)
    ]


def test_the_furthest_round_inside_the_allowance() -> None:
    chosen = select(rounds(0.01, 0.1, 0.2, 0.9), "excess", 0.25)
    assert (chosen.round, chosen.removed, chosen.rule) == ("r12", 12, "excess")
    assert "furthest" in chosen.reason and "20.0%" in chosen.reason and "r16" in chosen.reason


def test_the_limit_itself_is_inside() -> None:
    assert select(rounds(0.25, 0.26), "excess", 0.25).round == "r04"


def test_confidence_demands_the_upper_end() -> None:
    assert select(rounds(0.0, 0.1, 0.2), "excess", 0.25).round == "r12"
    chosen = select(rounds(0.0, 0.1, 0.2), "excess", 0.25, confident=True)
    assert chosen.round == "r08" and "worse end" in chosen.reason


def test_a_failed_round_in_the_middle_is_passed_and_named() -> None:
    chosen = select(rounds(0.0, 0.5, 0.1), "excess", 0.25)
    assert chosen.round == "r12" and "outside at r08" in chosen.reason and "untested" in chosen.reason


def test_the_order_of_rows_does_not_matter() -> None:
    rows = rounds(0.0, 0.5, 0.1, 0.7)
    assert select(rows[::-1], "excess", 0.25) == select(rows, "excess", 0.25)


def test_without_a_round_inside_the_teacher_is_kept() -> None:
    chosen = select(rounds(0.6, 0.4, math.nan), "excess", 0.25)
    assert (chosen.round, chosen.removed) == (BASE, 0)
    assert "kept whole" in chosen.reason and "r08 (8 blocks) with 40.0%" in chosen.reason


def test_the_base_row_is_no_round() -> None:
    rows = [RoundEvidence(BASE, 0, excess=0.0), *rounds(0.6)]
    assert "No round" in select(rows, "excess", 0.25).reason


@given(st.lists(st.floats(-1, 5), min_size=1, max_size=8), st.floats(0, 2), st.booleans())
def test_what_is_chosen_is_inside_and_nothing_further_is(
    excess: list[float], allowance: float, confident: bool
) -> None:
    rows = rounds(*excess)
    chosen = select(rows, "excess", allowance, confident)
    bound = {r.removed: (r.excess_high if confident else r.excess) or 0.0 for r in rows}
    assert chosen.removed == 0 or bound[chosen.removed] <= allowance
    assert all(value > allowance for removed, value in bound.items() if removed > chosen.removed)


def test_absolute_fvd_and_floor_on_accuracy() -> None:
    rows = [
        RoundEvidence(f"r{i}", i, fvd=f, fvd_high=f + 5, accuracy=a, accuracy_low=a - 0.1)
        for i, (f, a) in enumerate([(10.0, 0.95), (20.0, 0.9), (30.0, 0.6)], 1)
    ]
    assert select(rows, "fvd", 22.0).round == "r2"
    assert select(rows, "fvd", 22.0, confident=True).round == "r1"
    chosen = select(rows, "accuracy", 0.85)
    assert chosen.round == "r2" and "floor of 85.0%" in chosen.reason
    assert select(rows, "accuracy", 0.85, confident=True).round == "r1"
    assert select(rows, "accuracy", 0.99).round == BASE


def test_knee_in_closed_form() -> None:
    # y = x^2 on [0, 1]: x - x^2 is largest, 1/4, at 1/2; units do not matter.
    x = [i / 10 for i in range(11)]
    assert knee([1e9 * v for v in x], [7 + 3 * v * v for v in x]) == (5, pytest.approx(0.25))
    # The more convex, the later: x - x^10 at (1/10)^(1/9) = 0.774.
    assert knee(x, [v**10 for v in x])[0] == 8
    assert knee(x, x) == (0, 0.0)
    assert knee(x, [math.sqrt(v) for v in x]) == (0, 0.0)
    assert knee(x, [1.0] * 11) == (0, 0.0)
    assert knee([0.0, 1.0], [0.0, math.nan]) == (0, 0.0)


def test_the_knee_as_a_rule() -> None:
    damage = [10.0, 10.2, 10.5, 12.0, 40.0]
    rows = [RoundEvidence(BASE if i == 0 else f"r{i}", i, macs=100.0 - 10 * i, fvd=f) for i, f in enumerate(damage)]
    chosen = select(rows, "knee", 0.0)
    assert chosen.round == "r3" and "30.0%" in chosen.reason
    assert select(rows, "knee", 0.9).round == BASE
    with pytest.raises(LeanmotionError, match="base"):
        select(rows[1:], "knee", 0.0)


def test_what_cannot_be_judged() -> None:
    with pytest.raises(LeanmotionError, match="r04 lacks"):
        select(rounds(0.1), "accuracy", 0.5)
    with pytest.raises(LeanmotionError, match="no rounds"):
        select([RoundEvidence(BASE, 0)], "excess", 0.5)


def test_a_row_of_the_evaluation_table() -> None:
    row = {"round": "r08", "removed": 8, "macs": 50, "excess": 0.1, "excess_low": 0.0, "excess_high": 0.2}
    row |= {"fvd": 1.0, "fvd_cross": 12.0, "fvd_cross_high": 13.0, "motion_accuracy": 0.9, "arm": "distilled"}
    evidence = RoundEvidence.from_row(row)
    assert (evidence.round, evidence.removed, evidence.macs) == ("r08", 8, 50.0)
    assert (evidence.fvd, evidence.fvd_high, evidence.accuracy, evidence.accuracy_low) == (12.0, 13.0, 0.9, None)
    assert evidence.excess_high == 0.2
