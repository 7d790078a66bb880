"""Which units a probe removes together: the most similar, random ones, and single ones of a granularity."""

import random
from dataclasses import dataclass

import pandas as pd

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.settings import ProbeSet
from leanmotion.probing.similarity_tables import mean_similarity


@dataclass(frozen=True)
class Probe:
    """A named set of units of one granularity. `pick`: similar, random or single."""

    name: str
    granularity: str
    pick: str
    units: tuple[str, ...]


def probes_of(name: str, settings: ProbeSet, similarity: pd.DataFrame, *, seed: int) -> list[Probe]:
    """The probes of one set.

    Similar: the `count` units of highest cosine similarity between input and output. Random: seeded draws of the
    same size, other units each time. Single: a seeded sample, one unit each.

    Raises:
        LeanmotionError: More units asked for than the model has.
    """
    rows = similarity.loc[similarity["granularity"] == settings.granularity]
    ordered = list(mean_similarity(rows).sort_values(ascending=False, kind="stable").index)
    check_counts(name, settings, len(ordered))
    generator = random.Random(f"{seed}/{name}")
    probes = [
        Probe(f"{name}_similar_{count}", settings.granularity, "similar", tuple(ordered[:count]))
        for count in settings.counts
    ]
    for draw in range(settings.random):
        tag = "" if settings.random == 1 else f"_{draw + 1}"
        probes += [
            Probe(f"{name}_random_{count}{tag}", settings.granularity, "random", _sample(generator, ordered, count))
            for count in settings.counts
        ]
    singles = _sample(generator, ordered, settings.single)
    probes += [
        Probe(f"{name}_single_{unit.replace('-', '_')}", settings.granularity, "single", (unit,)) for unit in singles
    ]
    return probes


def check_counts(name: str, settings: ProbeSet, there: int) -> None:
    """Refuse a set that asks for more units than there are of its granularity.

    Raises:
        LeanmotionError: as said.
    """
    if (most := max([*settings.counts, settings.single])) > there:
        raise LeanmotionError(
            f"probe.sets.{name}: asks for {most} units, the model has {there} {settings.granularity}s: lower it"
        )


def _sample(generator: random.Random, units: list[str], count: int) -> tuple[str, ...]:
    chosen = set(generator.sample(units, count))
    return tuple(unit for unit in units if unit in chosen)
