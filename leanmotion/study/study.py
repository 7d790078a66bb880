"""The study: is this order the right one, deleted this way, at this granularity? Its trials and what they found.

Every trial has the same budget of training steps. Trials come in the order of what they answer, so that an
interrupted study says something: first the FVD order against random and reverse ones with the spread over training
seeds, then how far repair reaches with one block left, other criteria, iterative against one shot, granularities; the
full budget repeats all with further seeds.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.settings import GRANULARITIES, Settings
from leanmotion.pipeline.tables import read_table, write_table
from leanmotion.probing.similarity_tables import mean_similarity
from leanmotion.study.trial import Bench, Trial, cumulative

SEEDS = (0, 1, 2)
RANDOM_ORDERS = 3


class Budget(StrEnum):
    """How many trials: `small` repeats the FVD order alone with further training seeds, `full` everything."""

    small = "small"
    full = "full"


def orders(ranking: pd.DataFrame, blocks: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Deletion orders by name, least important first; equal scores keep the model's order.

    Args:
        ranking: artefact `ranking`.
        blocks: in the model's order.
        seed: of the random orders.
    """
    table = ranking.set_index("block").loc[list(blocks)]
    scores = {
        "fvd": table["fvd"],
        "similarity": -table["similarity"],
        "fvd_per_mac": table["fvd"] / table["macs"],
    }
    found = {name: [str(b) for b in score.sort_values(kind="stable").index] for name, score in scores.items()}
    found["reverse"] = found["fvd"][::-1]
    for number in range(1, RANDOM_ORDERS + 1):
        shuffled = list(blocks)
        random.Random(f"study/{seed}/{number}").shuffle(shuffled)
        found[f"random_{number}"] = shuffled
    return found


def trials(
    settings: Settings, ranking: pd.DataFrame, similarity: pd.DataFrame, units: pd.DataFrame, count: int
) -> dict[Budget, list[Trial]]:
    """The trials of both budgets, each in the order in which they run; the small one's are the full one's first.

    Args:
        settings: all settings: blocks, rounds, steps of a round (the budget of every trial).
        ranking: artefact `ranking`.
        similarity: artefact `similarity`.
        units: artefact `units`.
        count: blocks deleted.

    Raises:
        LeanmotionError: a count that leaves nothing to compare.
    """
    blocks, steps = settings.teacher.blocks, settings.distillation.steps
    if not 0 < count < len(blocks):
        raise LeanmotionError(f"study: {count} of {len(blocks)} blocks deleted leaves nothing to compare: give --count")
    by_name = orders(ranking, blocks, settings.ranking.seed)

    def ordered(name: str, seed: int) -> Trial:
        deletions = cumulative(by_name[name], [count], blocks)
        return Trial("orders", name, "temporal_transformer", deletions, seed, steps)

    def iterative(seed: int) -> Trial:
        counts = sorted({r.size for r in settings.rounds.values() if r.size < count} | {count})
        return Trial("path", "fvd", "temporal_transformer", cumulative(by_name["fvd"], counts, blocks), seed, steps)

    def deepest(seed: int) -> list[Trial]:
        left = cumulative(by_name["fvd"], [len(blocks) - 1], blocks)
        trial = Trial("depth", "fvd", "temporal_transformer", left, seed, steps)
        return [] if count == len(blocks) - 1 else [trial]

    fine = granularity_sets(similarity, units, ordered("fvd", 0).removed)

    def granular(name: str, seed: int) -> Trial:
        return Trial("granularity", "similarity", name, (fine[name],), seed, steps)

    random_names = [name for name in by_name if name.startswith("random_")]
    small = [ordered(name, SEEDS[0]) for name in ("fvd", "reverse", *random_names)]
    small += [ordered("fvd", seed) for seed in SEEDS[1:]]
    small += deepest(SEEDS[0])
    small += [ordered(name, SEEDS[0]) for name in ("similarity", "fvd_per_mac")]
    small += [iterative(SEEDS[0]), *(granular(name, SEEDS[0]) for name in fine)]
    more = [ordered(name, seed) for seed in SEEDS[1:] for name in by_name if name != "fvd"]
    more += [trial for seed in SEEDS[1:] for trial in deepest(seed)]
    more += [iterative(seed) for seed in SEEDS[1:]]
    more += [granular(name, seed) for seed in SEEDS[1:] for name in fine]
    return {Budget.small: small, Budget.full: small + more}


def granularity_sets(
    similarity: pd.DataFrame, units: pd.DataFrame, selected: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Per granularity the units of highest cosine similarity that hold about equally many parameters.

    How many: those of the selected deletion, or half of what all attention layers hold if that is less, as attention
    layers are the smaller part of a motion module. Of every order the prefix is taken whose parameters come nearest.
    Similarity is the one score that there is at all three granularities.
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


class Findings:
    """The `study` table, written anew after every trial; trials that are in it are not run again.

    Args:
        path: the table.
        known: addresses that may stay; rows of other settings, weights or code go.
    """

    def __init__(self, path: Path, known: Mapping[str, Trial]) -> None:
        self.path = path
        rows: list[dict[str, Any]] = read_table(path, "study").to_pylist() if path.is_file() else []
        self.rows = [row for row in rows if row["address"] in known]
        self.meta: dict[str, str] = {}
        self._place = list(known).index

    @property
    def done(self) -> set[str]:
        """Addresses of finished trials."""
        return {row["address"] for row in self.rows}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a trial's rows, in the order of the plan."""
        self.rows = sorted([*self.rows, *map(dict, rows)], key=lambda row: self._place(row["address"]))
        write_table(self.path, "study", self.rows, meta=self.meta)


def run_study(bench: Bench, planned: Mapping[Budget, Sequence[Trial]], budget: Budget, out: Path) -> Iterator[Findings]:
    """Run what is missing of a budget, yielding all that is found so far: at once, and after every trial."""
    known = {bench.address(trial): trial for trial in planned[Budget.full]}
    findings = Findings(out, known)
    findings.meta = {
        "extractor": bench.extractor.name,
        "extractor_sha256": bench.extractor.digest,
        "teacher_sha256": bench.samplers.record.sha256,
        "split": bench.split,
        "frames": str(bench.settings.sampling.frames),
        "interval": str(bench.settings.evaluation.interval),
    }
    yield findings
    for trial in planned[budget]:
        if bench.address(trial) not in findings.done:
            findings.add(bench.run(trial))
            bench.forget(trial)
            yield findings
