"""Which sets of units to remove, by a matrix of interactions: all sets where they can be counted, else a beam.

The predicted damage of a set S is `1_S' G 1_S`; what it saves is the sum of what its units save. Sets are numbers whose
bits are the units. numpy alone: `leanmotion solve` answers in the time that its imports take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

ENUMERABLE = 22
"""Units up to which all sets are scored: 4 million sets, 32 MB for each number kept of them."""

_BEAM = 200
"""Sets of each size that a beam keeps."""


_CHAINS = 24
"""Chains of nested sets that are kept from link to link."""

_NOTHING = 1e-3


@dataclass(frozen=True)
class Link:
    """A set in a chain: how many units it holds, which it goes on from (none: ""), and itself where it is fixed."""

    size: int
    after: str = ""
    fixed: int | None = None


@dataclass(frozen=True, eq=False)
class Sets:
    """Sets of units, and their predicted damage. `ids`: bit i is unit i (Python's whole numbers beyond 62 units)."""

    ids: np.ndarray
    damage: Float[np.ndarray, " sets"]
    units: int

    def sums(self, values: Float[np.ndarray, " units"]) -> Float[np.ndarray, " sets"]:
        """The sum of a value over each set's units."""
        if len(self.ids) == 1 << self.units:
            return _doubled(values)
        return self.members().astype(np.float64) @ values

    def members(self) -> Bool[np.ndarray, "sets units"]:
        """Which units are in each set."""
        return members(self.ids, self.units)

    def at(self, rows: np.ndarray) -> Sets:
        """Some of them, by index or mask."""
        return Sets(self.ids[rows], self.damage[rows], self.units)


def members(ids: np.ndarray, units: int) -> Bool[np.ndarray, "sets units"]:
    """Sets as rows of flags."""
    return np.stack([(ids >> i) & 1 for i in range(units)], axis=1).astype(bool)


def number_of(places: Sequence[int]) -> int:
    """The set of some units, by their places."""
    return sum(1 << i for i in places)


def members_of(number: int) -> list[int]:
    """Places of a set's units."""
    return [i for i in range(number.bit_length()) if number >> i & 1]


def every_set(matrix: Float[np.ndarray, "units others"]) -> Sets:
    """All sets of units with their predicted damage, the empty one first.

    Adding unit i to the sets of the first i units adds `G_ii + 2 sum_j G_ij`: each set costs one addition a unit after
    its last.

    Raises:
        ValueError: more units than `ENUMERABLE`.
    """
    units = len(matrix)
    if units > ENUMERABLE:
        raise ValueError(f"{units} units have too many sets: use a beam")
    damage = np.zeros(1)
    for i in range(units):
        damage = np.concatenate([damage, damage + matrix[i, i] + 2 * _doubled(matrix[i, :i])])
    return Sets(np.arange(1 << units), damage, units)


def beam_sets(matrix: Float[np.ndarray, "units others"], width: int = _BEAM) -> Sets:
    """The least harmful sets of each size that a beam finds, growing the best of a size by one unit at a time.

    From the empty set up, and from the full one down: what is good to keep together is found from above.
    """
    units = len(matrix)
    up, down = _grown(matrix, width, True, 0), _grown(matrix, width, False, (1 << units) - 1)
    ids, first = np.unique(np.concatenate([up.ids, down.ids]), return_index=True)
    return Sets(ids, np.concatenate([up.damage, down.damage])[first], units)


def candidates(matrix: Float[np.ndarray, "units others"]) -> Sets:
    """All sets, or those of a beam where there are too many."""
    return every_set(matrix) if len(matrix) <= ENUMERABLE else beam_sets(matrix)


def nested(matrix: Float[np.ndarray, "units others"], chain: Mapping[str, Link]) -> dict[str, int]:
    """Sets that contain one another as asked, each as near as may be to the best of its size.

    A beam over the links, each after the one that it goes on from: the sum over links of predicted damage, as a
    multiple of the least of that size, is kept small. Differences below a thousandth of the damage of all units
    together count as nothing.

    Args:
        matrix: of interactions.
        chain: name -> its size, or its set; links that go on from one another.

    Returns:
        Name -> set, as a number.
    """
    sets = candidates(matrix)
    sizes = sets.sums(np.ones(sets.units))
    small = _NOTHING * abs(float(matrix.sum()))
    states: list[tuple[float, dict[str, int]]] = [(0.0, {})]
    for name in _in_order(chain):
        link, found = chain[name], list[tuple[float, dict[str, int]]]()
        same = sets.at(np.flatnonzero(sizes == link.size))
        least = float(same.damage.min(initial=0.0)) if link.fixed is not None else float(same.damage.min())
        for score, taken in states:
            before = taken[link.after] if link.after else 0
            if link.fixed is not None:
                found.append((score, {**taken, name: link.fixed}))
                continue
            above = _supersets(matrix, sets, same, before, link.size)
            for ids, damage in zip(above.ids, above.damage, strict=True):
                more = (float(damage) + small) / (least + small) if small else 0.0
                found.append((score + more, {**taken, name: int(ids)}))
        found.sort(key=lambda state: (state[0], list(state[1].values())))
        states = found[:_CHAINS]
    return states[0][1]


def _in_order(chain: Mapping[str, Link]) -> list[str]:
    """Names, each after the one it goes on from."""
    ordered: list[str] = []
    while len(ordered) < len(chain):
        ordered += [n for n, link in chain.items() if n not in ordered and (not link.after or link.after in ordered)]
    return ordered


def _supersets(matrix: np.ndarray, sets: Sets, same: Sets, before: int, size: int) -> Sets:
    """The best sets of a size that hold another set, of those of this size; grown from it where these are a beam's."""
    if len(sets.ids) == 1 << sets.units:
        return same.at(best(same, (same.ids & before) == before, _CHAINS))
    grown = _grown(matrix, _BEAM, True, before)
    return grown.at(best(grown, grown.sums(np.ones(sets.units)) == size, _CHAINS))


def best(sets: Sets, allowed: Bool[np.ndarray, " sets"], count: int) -> Int[np.ndarray, " some"]:
    """Rows of the `count` least harmful of the allowed sets, least harm first."""
    rows = np.flatnonzero(allowed)
    if len(rows) > count:
        rows = rows[np.argpartition(sets.damage[rows], count - 1)[:count]]
    return rows[np.argsort(sets.damage[rows], kind="stable")]


def front(saved: Float[np.ndarray, " sets"], damage: Float[np.ndarray, " sets"]) -> Int[np.ndarray, " some"]:
    """Rows of the sets that no other one beats: none saves as much with less predicted damage. Least saving first."""
    order = np.lexsort((-saved, damage))
    kept = saved[order] > np.concatenate([[-np.inf], np.maximum.accumulate(saved[order])[:-1]])
    return order[kept]


def _doubled(values: Float[np.ndarray, " units"]) -> Float[np.ndarray, " sets"]:
    """Sums over all sets of so many units, in the order of their numbers."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


def _grown(matrix: np.ndarray, width: int, up: bool, start: int) -> Sets:
    """From a set up to all units, or down to none: the best `width` sets of every size on the way."""
    units = len(matrix)
    kind = object if units > 62 else np.int64
    ids = np.array([start], kind)
    first = members(ids, units)[0].astype(np.float64)
    damage = np.array([float(first @ matrix @ first)])
    kept = [(ids, damage)]
    for _ in range(int(units - first.sum() if up else first.sum())):
        member = members(ids, units)
        touched = member.astype(np.float64) @ matrix  # sum over the set of G_ij, for every unit j
        change = np.diag(matrix) + 2 * touched if up else np.diag(matrix) - 2 * touched
        rows, places = np.nonzero(~member if up else member)
        bits = np.array([1 << int(i) for i in places], kind)
        found, first = np.unique(ids[rows] ^ bits, return_index=True)
        scores = (damage[:, None] + change)[rows, places][first]
        chosen = np.argsort(scores, kind="stable")[:width]
        ids, damage = found[chosen], scores[chosen]
        kept.append((ids, damage))
    return Sets(np.concatenate([i for i, _ in kept]), np.concatenate([d for _, d in kept]), units)
