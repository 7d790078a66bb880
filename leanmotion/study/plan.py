"""The study's trials: which units each deletes, by what, with which training seeds; what says most comes first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np
import pandas as pd

from leanmotion.errors import LeanmotionError
from leanmotion.influence.tables import BLOCKS, Interaction
from leanmotion.pipeline.settings import GRANULARITIES, Settings
from leanmotion.probing.best_sets import best, candidates, members_of
from leanmotion.probing.similarity_tables import mean_similarity
from leanmotion.study.trial import Trial, cumulative

SEEDS = (0, 1, 2)
CONTENDERS = ("fvd", "influence")
KEEPING, EQUAL_MACS = 3, 5
HUBS = 2
"""The most important blocks, which fair random deletions keep: without them nothing is left to compare."""
_SIZES = 7
_NEAR = 0.05
"""How far the MACs of a random set may be from those of the order."""


class Budget(StrEnum):
    """How many trials: `small` trains where deletion did harm alone, `full` all that is drawn, with three seeds."""

    small = "small"
    full = "full"


def orders(ranking: pd.DataFrame, blocks: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Deletion orders by name, least important first; equal scores keep the model's order.

    `random_1` is any order; `keeping_<n>` are random but for the two most important blocks, which come last.

    Args:
        ranking: artefact `ranking`.
        blocks: in the model's order.
        seed: of the random orders.
    """
    table = ranking.set_index("block").loc[list(blocks)]
    scores = {
        "fvd": table["fvd"],
        "influence": table["influence"],
        "similarity": -table["similarity"],
        "fvd_per_mac": table["fvd"] / table["macs"],
    }
    found = {name: [str(b) for b in score.sort_values(kind="stable").index] for name, score in scores.items()}
    found["reverse"] = found["fvd"][::-1]
    found["random_1"] = _shuffled(blocks, f"study/{seed}/1")
    hubs = found["fvd"][-HUBS:]
    others = [block for block in blocks if block not in hubs]
    for number in range(1, KEEPING + 1):
        found[f"keeping_{number}"] = [*_shuffled(others, f"study/{seed}/keeping/{number}"), *hubs]
    return found


def _shuffled(blocks: Sequence[str], seed: str) -> list[str]:
    shuffled = list(blocks)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def best_sets(interaction: Interaction, size: int, count: int) -> list[list[str]]:
    """The `count` sets of a size with least predicted damage."""
    sets = candidates(interaction.mean)
    rows = best(sets, sets.sums(np.ones(sets.units)) == size, count)
    return [[interaction.units[i] for i in members_of(int(sets.ids[row]))] for row in rows]


def equal_macs(macs: dict[str, float], target: Sequence[str], hubs: Sequence[str], seed: int) -> list[list[str]]:
    """Random sets that delete about as many MACs as a given one and keep the hubs: five, or as many as are found."""
    wanted = sum(macs[block] for block in target)
    others, found = [block for block in macs if block not in hubs], list[list[str]]()
    for attempt in range(2000):
        if len(found) == EQUAL_MACS:
            break
        shuffled = _shuffled(others, f"study/{seed}/macs/{attempt}")
        held = np.cumsum([macs[block] for block in shuffled])
        count = int(np.abs(held - wanted).argmin()) + 1
        chosen = sorted(shuffled[:count])
        if abs(held[count - 1] - wanted) <= _NEAR * wanted and chosen not in found and chosen != sorted(target):
            found.append(chosen)
    return found


def trials(
    settings: Settings,
    ranking: pd.DataFrame,
    similarity: pd.DataFrame,
    units: pd.DataFrame,
    interaction: Interaction,
    count: int,
) -> dict[Budget, list[Trial]]:
    """The trials of both budgets, each in the order in which they run; the small one's are the full one's first.

    Orders and granularities are compared as they are drawn: at a depth that still lies inside the null there is
    nothing to train for, and beyond it what counts is the damage. Training is tried where deletion did harm: at the
    deepest round that keeps some block, and with one block left.

    Args:
        settings: all settings: blocks, rounds, steps of a round (the budget of every trained trial).
        ranking: artefact `ranking`.
        similarity: artefact `similarity`.
        units: artefact `units`.
        interaction: of the blocks.
        count: blocks deleted where orders are compared.

    Raises:
        LeanmotionError: a count that leaves nothing to compare.
    """
    blocks = settings.teacher.blocks
    if not 0 < count < len(blocks):
        raise LeanmotionError(f"study: {count} of {len(blocks)} blocks deleted leaves nothing to compare: give --count")
    by_name = orders(ranking, blocks, settings.ranking.seed)
    make = _Maker(blocks, settings.distillation.steps)
    compared = {name: order[:count] for name, order in by_name.items() if name in (*CONTENDERS, *_keeping())}
    compared["sets"] = best_sets(interaction, count, 1)[0]
    macs = ranking.set_index("block").loc[list(blocks), "macs"].astype(float).to_dict()
    random_sets = equal_macs(macs, by_name["fvd"][:count], by_name["fvd"][-HUBS:], settings.ranking.seed)
    compared |= {f"equal_macs_{i + 1}": gone for i, gone in enumerate(random_sets)}
    compared |= {name: by_name[name][:count] for name in ("reverse", "random_1", "similarity", "fvd_per_mac")}
    small = [make.drawn("orders", name, gone) for name, gone in compared.items()]
    small += _predictions(by_name, interaction, make)
    fine = granularity_sets(similarity, units, small[0].removed)
    small += [Trial("granularity", "similarity", name, (fine[name],), 0, 0) for name in fine]
    depths = sorted({max([r.size for r in settings.rounds.values() if r.size < len(blocks)]), len(blocks) - 1})
    small += [make.trained("depth", f"fvd_{depth}", by_name["fvd"][:depth]) for depth in depths]
    small += [make.trained("depth", f"fvd_{depths[0]}", by_name["fvd"][: depths[0]], seed) for seed in SEEDS[1:]]
    more = [make.trained("depth", f"fvd_{depth}", by_name["fvd"][:depth], s) for depth in depths[1:] for s in SEEDS[1:]]
    counts = sorted({r.size for r in settings.rounds.values() if r.size < depths[0]} | {depths[0]})
    way = cumulative(by_name["fvd"], counts, blocks)
    more += [Trial("path", f"fvd_{depths[0]}", BLOCKS, way, seed, make.steps) for seed in SEEDS]
    more += [make.trained("repair", name, gone, seed) for seed in SEEDS for name, gone in compared.items()]
    return {Budget.small: small, Budget.full: small + more}


def _keeping() -> list[str]:
    return [f"keeping_{number}" for number in range(1, KEEPING + 1)]


class _Maker:
    """Trials of blocks that are deleted at once."""

    def __init__(self, blocks: Sequence[str], steps: int) -> None:
        self.blocks, self.steps = blocks, steps

    def drawn(self, question: str, name: str, gone: Sequence[str]) -> Trial:
        return Trial(question, name, BLOCKS, (tuple(sorted(gone, key=self.blocks.index)),), 0, 0)

    def trained(self, question: str, name: str, gone: Sequence[str], seed: int = SEEDS[0]) -> Trial:
        return replace(self.drawn(question, name, gone), seed=seed, steps=self.steps)


def _predictions(by_name: dict[str, list[str]], interaction: Interaction, make: _Maker) -> list[Trial]:
    """Sets of all sizes, chosen here, before any of them is drawn."""
    total = len(interaction.units)
    sizes = sorted({round(size) for size in np.linspace(2, total - HUBS, _SIZES).tolist() if size >= 1})
    found = []
    for size in sizes:
        named = {"fvd": by_name["fvd"][:size], **{n: by_name[n][:size] for n in ("keeping_1", "keeping_2")}}
        named |= dict(zip(("sets", "sets_second"), best_sets(interaction, size, 2), strict=False))
        found += [make.drawn("prediction", f"{name}_{size}", gone) for name, gone in named.items()]
    return found


def granularity_sets(
    similarity: pd.DataFrame, units: pd.DataFrame, selected: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Per granularity the units of highest cosine similarity that hold about equally many parameters.

    How many: those of the selected deletion, or half of what all attention layers hold if that is less, as attention
    layers are the smaller part of a motion module. Of every order the prefix is taken whose parameters come nearest.
    """
    sizes = units.set_index("unit")["parameters"]
    attention = int(units.loc[units["granularity"] == "attention", "parameters"].sum())
    target = min(int(sizes.loc[list(selected)].sum()), attention // 2)
    found = {}
    for granularity in GRANULARITIES:
        rows = similarity.loc[similarity["granularity"] == granularity]
        ordered = mean_similarity(rows).sort_values(ascending=False, kind="stable")
        held = sizes.loc[list(ordered.index)].cumsum()
        count = int((held - target).abs().to_numpy().argmin()) + 1
        chosen = set(ordered.index[:count])
        found[granularity] = tuple(str(unit) for unit in units["unit"] if unit in chosen)
    return found
