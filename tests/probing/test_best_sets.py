"""All sets by a matrix, against the definition; beams against all sets; fronts and chains."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanmotion.probing.best_sets import (
    ENUMERABLE,
    Link,
    beam_sets,
    best,
    candidates,
    every_set,
    front,
    members_of,
    nested,
    number_of,
)


def matrix(units: int, seed: int = 0, rank: int = 6) -> np.ndarray:
    changes = np.random.default_rng(seed).normal(size=(units, rank))
    return changes @ changes.T


def test_every_set_is_scored_by_the_definition() -> None:
    g, costs = matrix(9), np.random.default_rng(1).random(9)
    sets = every_set(g)
    assert len(sets.ids) == 2**9 and sets.damage[0] == 0
    sums = sets.sums(costs)
    for number in sets.ids.tolist():
        places = members_of(number)
        assert number_of(places) == number
        # A few hundred additions of numbers of this size.
        assert sets.damage[number] == pytest.approx(g[np.ix_(places, places)].sum(), abs=1e-9)
        assert sums[number] == pytest.approx(costs[places].sum())
    assert np.array_equal(np.flatnonzero(sets.members()[5]), [0, 2])


@given(st.integers(0, 50), st.integers(1, 7))
def test_the_best_are_the_least_of_those_allowed(seed: int, count: int) -> None:
    sets = every_set(matrix(6, seed))
    allowed = sets.sums(np.ones(6)) == 3
    rows = best(sets, allowed, count)
    assert allowed[rows].all() and len(rows) == min(count, 20)
    assert sets.damage[rows].tolist() == sorted(sets.damage[allowed])[:count]


def test_a_beam_finds_nearly_the_best_of_each_size() -> None:
    g = matrix(14, 3)
    whole, found = every_set(g), beam_sets(g, width=60)
    sizes, theirs = whole.sums(np.ones(14)), found.sums(np.ones(14))
    assert len(set(found.ids.tolist())) == len(found.ids) < len(whole.ids)
    hits = 0
    for size in range(15):
        least, mine = whole.damage[sizes == size].min(), found.damage[theirs == size].min()
        assert mine >= least - 1e-9
        hits += mine <= least + 1e-9
    assert hits >= 14
    for place in (1, 77, len(found.ids) - 1):
        units = members_of(int(found.ids[place]))
        assert found.damage[place] == pytest.approx(g[np.ix_(units, units)].sum())


def test_more_units_than_can_be_counted_are_searched_by_a_beam() -> None:
    """Of independent units the best sets are the least ones: 70 of them, beyond what a machine's numbers hold."""
    g = np.diag(np.random.default_rng(0).permutation(np.arange(1.0, 71.0)))
    found = candidates(g)
    sizes = found.sums(np.ones(70))
    assert len(g) > ENUMERABLE and sizes.max() == 70
    for size in (1, 20, 69):
        assert found.damage[sizes == size].min() == pytest.approx(size * (size + 1) / 2)
    chain = nested(g, {"a": Link(3), "b": Link(40, "a")})
    assert chain["a"] & chain["b"] == chain["a"]
    assert sum(g[i, i] for i in members_of(chain["b"])) == pytest.approx(40 * 41 / 2)


@given(st.integers(0, 100))
def test_the_front_is_what_no_set_beats(seed: int) -> None:
    random = np.random.default_rng(seed)
    saved, damage = random.integers(0, 6, 40).astype(float), random.integers(0, 6, 40).astype(float)
    rows = front(saved, damage)
    assert (np.diff(saved[rows]) > 0).all() and (np.diff(damage[rows]) > 0).all()
    for i in range(40):
        assert any(saved[r] >= saved[i] and damage[r] <= damage[i] for r in rows)


def test_a_chain_keeps_a_fixed_set_and_holds_what_went_before() -> None:
    g = matrix(8, 5)
    fixed = number_of([1, 6])
    chain = nested(g, {"late": Link(5, "named"), "named": Link(2, fixed=fixed), "own": Link(3)})
    assert chain["named"] == fixed and chain["late"] & fixed == fixed and chain["late"].bit_count() == 5
    best_three = min(itertools.combinations(range(8), 3), key=lambda s: g[np.ix_(s, s)].sum())
    assert chain["own"] == number_of(best_three)
