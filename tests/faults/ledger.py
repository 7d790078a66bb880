"""What was tried and what survived, by family: the table that `make faults` prints."""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

FULL = os.environ.get("LEANMOTION_FAULTS") == "full"
"""`make faults`: every case. Otherwise a seeded sample of them, for `make test`."""

FAMILIES: dict[str, list[int]] = {}
"""Family -> [tried, survived]."""
NOTES: list[str] = []

T = TypeVar("T")


@contextmanager
def case(family: str) -> Iterator[None]:
    """One case of a family: it survives where the block ends well."""
    entry = FAMILIES.setdefault(family, [0, 0])
    entry[0] += 1
    yield
    entry[1] += 1


def sample(cases: Sequence[T], short: int, seed: int = 0) -> list[T]:
    """All cases in the full form; in the short one `short` of them, always the same, in their order."""
    if FULL or short >= len(cases):
        return list(cases)
    kept = set(random.Random(seed).sample(range(len(cases)), short))
    return [c for i, c in enumerate(cases) if i in kept]


def table() -> str:
    """The families as a table in Markdown."""
    width = max(len(name) for name in FAMILIES)
    lines = [f"| {'case family':<{width}} | tried | survived |", f"|{'-' * (width + 2)}|------:|---------:|"]
    lines += [f"| {name:<{width}} | {tried:>5} | {survived:>8} |" for name, (tried, survived) in FAMILIES.items()]
    total = [sum(column) for column in zip(*FAMILIES.values(), strict=True)]
    lines.append(f"| {'all':<{width}} | {total[0]:>5} | {total[1]:>8} |")
    return "\n".join([*lines, *(f"\n{note}" for note in NOTES)])
