"""A budget in, a set out: which units to delete so that the call is as light as asked, with least predicted damage.

Without torch: the matrix of interactions and the costs that a run has written are all it takes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from leanmotion.commands.timed_rounds import TimedRound, timed_rounds
from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.influence.tables import BLOCKS, Interaction, interaction_of
from leanmotion.pipeline.numbers import percent, short
from leanmotion.pipeline.params_file import with_round
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import GRANULARITIES, checked, load_settings
from leanmotion.pipeline.tables import read_frame
from leanmotion.pipeline.watched_paths import check_paths
from leanmotion.pipeline.writing import write_text
from leanmotion.probing.best_sets import Sets, best, candidates, front, members_of, number_of
from leanmotion.report.block_times import time_shares

BUDGETS = ("latency", "macs", "parameters")
_WORDS = {"call": "the whole call", "motion": "the motion modules"}
_RESAMPLES, _TAILS = 200, (0.05, 0.95)
_NEARLY = 1e-9
"""Rounding of sums of shares."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What can be chosen among.

    `saved`: budget -> share that each unit saves, of the call or of its motion modules. `timed`: rounds of the last
    run by the numbers of their sets.
    """

    interaction: Interaction
    sets: Sets
    saved: dict[str, np.ndarray]
    of: str
    timed: dict[int, TimedRound]

    def savings(self, budget: str) -> np.ndarray:
        """What every set saves: the sum over its units, or what was timed of it as a whole."""
        found = self.sets.sums(self.saved[budget])
        if budget == "latency" and self.timed:
            for row in np.flatnonzero(np.isin(self.sets.ids, list(self.timed))).tolist():
                found[row] = self.timed[int(self.sets.ids[row])].saved
        return found

    def shares(self, row: int) -> dict[str, float]:
        """What one set saves."""
        number = int(self.sets.ids[row])
        found = {name: float(values[members_of(number)].sum()) for name, values in self.saved.items()}
        return found | ({"latency": self.timed[number].saved} if number in self.timed else {})

    def round_of(self, row: int) -> str:
        """The round of the last run that deletes just this set, or ""."""
        number = int(self.sets.ids[row])
        return self.timed[number].name if number in self.timed else ""

    def removed(self, row: int) -> list[str]:
        """The units of one set."""
        return [self.interaction.units[i] for i in members_of(int(self.sets.ids[row]))]


def read_problem(data: Path, granularity: str, of: str) -> Problem:
    """Read a run's matrix of interactions, and what units cost.

    Args:
        data: the folder of artefacts.
        granularity: of the units. Only whole blocks are timed.
        of: `call` or `motion`: what savings are shares of.

    Raises:
        LeanmotionError: an artefact is missing or damaged, or another word.
    """
    for option, value, known in (("granularity", granularity, GRANULARITIES), ("of", of, tuple(_WORDS))):
        if value not in known:
            raise LeanmotionError(f"--{option} {value}: name one of {', '.join(known)}{did_you_mean(value, known)}")
    interaction = interaction_of(read_frame(data / "interaction.parquet", "interaction"), granularity)
    facts: Any = read_frame(data / "units.parquet", "units").set_index("unit").loc[interaction.units]
    record = read_record(data / "teacher.json", made_by="dvc repro inspect")
    whole = "" if of == "call" else "motion_"
    saved = {name: facts[name].to_numpy(float) / record[f"{whole}{name}"] for name in ("macs", "parameters")}
    timed: dict[int, TimedRound] = {}
    if granularity == BLOCKS:
        profile: Any = read_frame(data / "profile.parquet", "profile").set_index("variant")
        total = 1.0 if of == "call" else float(profile.loc["none", "saving_fraction"])
        saved = {"latency": time_shares(profile, interaction.units) / total, **saved}
        rounds = timed_rounds(data, facts["macs"].to_dict(), record["macs"], of)
        timed = {number_of([interaction.units.index(block) for block in this.removed]): this for this in rounds}
    return Problem(interaction, candidates(interaction.mean), saved, of, timed)


def share_of(text: str, option: str) -> float:
    """`70%` or `0.7` as a share.

    Raises:
        LeanmotionError: neither.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise LeanmotionError(f"--{option} {text}: say how much may be left, as 70% or 0.7")
    return share


def solve(problem: Problem, budgets: Mapping[str, float], blocks: int | None, count: int) -> list[int]:
    """Rows of the `count` sets of least predicted damage that keep to all budgets.

    Args:
        problem: what can be chosen among.
        budgets: of `BUDGETS`: share that may be left.
        blocks: how many units go; any number where None.
        count: how many sets.

    Raises:
        LeanmotionError: no set keeps to a budget; the line says what can be reached.
    """
    if not budgets and blocks is None:
        raise LeanmotionError("say a budget: --latency, --macs or --parameters, as 70%, or how many --blocks go")
    allowed = np.ones(len(problem.sets.ids), bool)
    if blocks is not None:
        if not 1 <= blocks <= problem.sets.units:
            raise LeanmotionError(f"--blocks {blocks}: 1 to {problem.sets.units} of them can go")
        allowed &= problem.sets.sums(np.ones(problem.sets.units)) == blocks
    for name, left in budgets.items():
        if name not in problem.saved:
            raise LeanmotionError(f"--{name}: only whole blocks are timed: leave --granularity away, or name --macs")
        share = problem.savings(name)
        fits = allowed & (share >= 1 - left - _NEARLY)
        if not fits.any() or left >= 1:
            low, high = (percent(1 - edge) for edge in (share[allowed].max(), share[allowed].min()))
            so_far = "" if allowed.all() else ", the other budgets kept"
            reach = f"{low} to {high} of {_WORDS[problem.of]} can be left{so_far}"
            raise LeanmotionError(f"--{name} {percent(left)}: {reach}: stay in between")
        allowed = fits
    return best(problem.sets, allowed, count).tolist()


def rows_of(problem: Problem, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Sets in numbers: removed, kept, damage with its interval over prompts, and what each saves."""
    found = []
    for row in chosen:
        removed = problem.removed(row)
        low, high = np.quantile(problem.interaction.draws(removed, _RESAMPLES, seed=0), _TAILS)
        found.append(
            {
                "round": problem.round_of(row), "removed": removed,
                "kept": [unit for unit in problem.interaction.units if unit not in removed],
                "damage": float(problem.sets.damage[row]), "damage_low": float(low), "damage_high": float(high),
                **{f"{name}_saved": share for name, share in problem.shares(row).items()},
            }
        )  # fmt: skip
    return found


def table_of(problem: Problem, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and cells for the terminal; of deleted and kept units those that are fewer are named."""
    head = ["deleted", *(f"{name} saved" for name in problem.saved), "predicted damage", "which"]
    cells = []
    for row in rows:
        few = "all but " + " ".join(row["kept"]) if len(row["kept"]) < len(row["removed"]) else " ".join(row["removed"])
        which = few if row["kept"] else "all"
        damage = f"{short(row['damage'])} [{short(row['damage_low'])}, {short(row['damage_high'])}]"
        saved = [percent(row[f"{name}_saved"]) for name in problem.saved]
        if row["round"]:
            saved[0] += f" ({row['round']})"
        cells.append([str(len(row["removed"])), *saved, damage, which])
    return head, cells


def reading(problem: Problem, data: Path, *, written: bool) -> list[str]:
    """What the table's words mean, where its figures come from, and what to do next."""
    part = "a UNet call" if problem.of == "call" else "the motion modules"
    said = "multiply-accumulates (macs) and parameters are counted"
    told = [
        "predicted damage: how far the final latent moves without these units, squared. It comes from how the model's",
        f"  output changes without each, and without pairs ({data / 'interaction.parquet'}); [90% interval].",
        "  It compares sets with one another: 0 is no change. It is no FVD, and says nothing of repair.",
        f"saved: the share of {part} that goes: {said}.",
        *_latency(problem, data),
        "which: the units that are deleted, or, where those are fewer, the units that are kept (all but ...).",
    ]
    if "latency" in problem.saved and not written:  # whole blocks
        told.append(
            "next: the same command with `--write lean` makes the first set a round; `dvc repro` then measures its FVD."
        )
    return told


def _latency(problem: Problem, data: Path) -> list[str]:
    if "latency" not in problem.saved:
        return []
    return [
        f"  latency adds up the blocks' measured times ({data / 'profile.parquet'}), each by the same factor, so that",
        "  all of them save what a call without any was measured to save. Of a set that is a round (its name in",
        f"  brackets) it is what its own calls were measured to save ({data / 'latency.parquet'}).",
    ]


def write_front(problem: Problem, budget: str, out: Path) -> int:
    """Write the sets that no other beats in one budget, as CSV: least saving first. Returns how many there are."""
    rows = front(problem.savings(budget), problem.sets.damage)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["deleted", "damage", *(f"{name}_saved" for name in problem.saved), "removed"])
    for row in rows.tolist():
        removed, shares = problem.removed(row), problem.shares(row).values()
        numbers = [f"{value:.9g}" for value in (problem.sets.damage[row], *shares)]
        writer.writerow([len(removed), *numbers, " ".join(removed)])
    write_text(out, text.getvalue())
    return len(rows)


def write_round(params: Path, name: str, granularity: str, blocks: list[str]) -> None:
    """Put a set into params.yaml as a round that starts from the teacher.

    Raises:
        LeanmotionError: no whole blocks, or a name that no round can have; the file is then as it was.
    """
    if granularity != BLOCKS:
        raise LeanmotionError("--write: rounds delete whole blocks: leave --granularity away")
    load_settings(params)
    text = with_round(params, name, blocks)
    checked(yaml.safe_load(text), params)
    write_text(params, text)


def time_set(params: Path, data: Path, granularity: str, row: Mapping[str, Any]) -> str:
    """Time whole calls without a set's blocks, as `measure` does of rounds; what came out beside what was foretold.

    Raises:
        LeanmotionError: no whole blocks.
    """
    if granularity != BLOCKS:
        raise LeanmotionError("--measure: only whole blocks are timed: leave --granularity away")
    # Only now: libraries that take seconds to import.
    from leanmotion.cost.latency import round_latency_rows
    from leanmotion.model.samplers import Samplers
    from leanmotion.model.teacher import TeacherRecord

    settings = load_settings(params)
    check_paths(settings)
    profile: Any = read_frame(data / "profile.parquet", "profile").set_index("variant")
    blocks = settings.teacher.blocks
    shares = dict(zip(blocks, time_shares(profile, blocks).tolist(), strict=True))
    samplers = Samplers(settings, TeacherRecord.read(data / "teacher.json"))
    rows = round_latency_rows(samplers.pipeline, settings, {"set": row["removed"]}, shares)
    full, timed = rows[0], next(found for found in rows if found["variant"] == "set")
    foretold = timed["predicted"] / full["seconds"]
    return (
        f"the first set saves {percent(timed['saving_fraction'])} of a call, timed here; {percent(foretold)} foretold"
    )
