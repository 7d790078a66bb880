"""Each round's list: by an order, by nested sets, by name."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import BLOCKS, tiny_settings

from leanmotion.influence.tables import Interaction
from leanmotion.ranking.deletions import deletions

SETTINGS = tiny_settings()


def interaction(seed: int = 0, rank: int = 5) -> Interaction:
    changes = np.random.default_rng(seed).normal(size=(3, len(BLOCKS), rank))
    return Interaction(list(BLOCKS), changes @ changes.transpose(0, 2, 1))


def lists(settings: Any, order: list[str], matrix: Interaction | None = None) -> dict[str, list[str]]:
    return {name: found["removed"] for name, found in deletions(settings, order, matrix or interaction()).items()}


@given(st.permutations(BLOCKS), st.permutations(BLOCKS))
def test_a_change_down_the_order_changes_no_early_rounds_list(order: list[str], other: list[str]) -> None:
    found = lists(SETTINGS, order)
    for name, count in (("r1", 1), ("r3", 3)):
        removed = found[name]
        assert removed == [block for block in BLOCKS if block in order[:count]]
        tail_changed = order[:count] + [block for block in other if block not in order[:count]]
        assert lists(SETTINGS, tail_changed)[name] == removed
        assert lists(SETTINGS, order[:count][::-1] + order[count:])[name] == removed


def rounds(**by_name: Any) -> dict[str, Any]:
    return {name: {"from": "base", **this} for name, this in by_name.items()}


def settings_of(search: str = "order", **by_name: Any) -> Any:
    raw = SETTINGS.model_dump(by_alias=True)
    raw["ranking"]["search"] = search
    return type(SETTINGS).model_validate({**raw, "rounds": rounds(**by_name)})


@pytest.mark.parametrize("search", ["order", "sets"])
def test_a_named_set_is_deleted_and_later_rounds_go_on_from_it(search: str) -> None:
    named = ["up_1_1", "down_0_0"]
    settings = settings_of(search, mine={"blocks": named}, more={"count": 4, "from": "mine"}, apart={"count": 1})
    found = deletions(settings, BLOCKS, interaction())
    assert found["mine"] == {"removed": ["down_0_0", "up_1_1"], "named": True}
    assert set(named) < set(found["more"]["removed"]) and len(found["more"]["removed"]) == 4
    assert "named" not in found["more"] and len(found["apart"]["removed"]) == 1
    if search == "order":
        assert found["more"]["removed"] == ["down_0_0", "down_1_0", "mid_0", "up_1_1"]


@pytest.mark.parametrize("seed", range(4))
def test_nested_sets_are_the_best_chain(seed: int) -> None:
    """Against all chains of three sets of seven units."""
    settings = settings_of("sets", a={"count": 2}, b={"count": 4, "from": "a"}, c={"count": 6, "from": "b"})
    matrix = interaction(seed)
    found = lists(settings, [], matrix)
    assert set(found["a"]) < set(found["b"]) < set(found["c"])
    subsets = {n: [set(s) for s in itertools.combinations(BLOCKS, n)] for n in (2, 4, 6)}
    least = {n: min(matrix.damage(list(s)) for s in subsets[n]) for n in subsets}
    small = 1e-3 * matrix.damage(BLOCKS)

    def regret(chain: Any) -> float:
        return sum((matrix.damage(list(s)) + small) / (least[len(s)] + small) for s in chain)

    best = min(regret((a, b, c)) for c in subsets[6] for b in subsets[4] if b < c for a in subsets[2] if a < b)
    assert regret(map(set, found.values())) == pytest.approx(best)


def test_sets_and_reranking_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match=r"ranking.rerank is true, and ranking.search is sets.*set one"):
        tiny_settings(ranking={"search": "sets", "rerank": True})


@pytest.mark.parametrize(
    ("by_name", "said"),
    [
        ({"a": {"count": 2, "blocks": ["mid_0"]}}, "needs either count"),
        ({"a": {}}, "needs either count"),
        ({"b": {"count": 4, "from": "a"}, "a": {}}, "needs either count"),
        ({"a": {"blocks": ["mid_1"]}}, r"rounds.a.blocks: teacher.blocks has no mid_1 \(did you mean 'mid_0'"),
        ({"a": {"blocks": ["mid_0", "mid_0"]}}, "lists mid_0 twice"),
        ({"a": {"blocks": ["mid_0"]}, "b": {"blocks": ["up_0_0", "up_0_1"], "from": "a"}}, "lacks mid_0, gone in 'a'"),
        ({"a": {"count": 1}, "b": {"blocks": ["up_0_0", "up_0_1"], "from": "a"}}, "start from base or a round of"),
        ({"a": {"blocks": ["mid_0"]}, "b": {"count": 1, "from": "a"}}, "must exceed the 1 of 'a'"),
    ],
)
def test_rounds_that_cannot_be_made_are_refused(by_name: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings_of(**by_name)
