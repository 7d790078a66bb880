"""The study: is this order the right one, deleted this way, at this granularity? Its trials run, and what they found.

Every trained trial has the same budget of training steps; the others are drawn as they are. They come in the order of
what they answer, so that an interrupted study says something.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leanmotion.influence.tables import BLOCKS, Interaction
from leanmotion.pipeline.tables import read_table, write_table
from leanmotion.study.plan import Budget
from leanmotion.study.trial import Bench, Trial

_LABELS = ("question", "order", "granularity", "path", "seed")
Key = tuple[str, str, str, str, int]


def key_of(trial: Trial) -> Key:
    """What tells a trial from the others."""
    return (trial.question, trial.order, trial.granularity, trial.path, trial.seed)


def row_key(row: Mapping[str, Any]) -> Key:
    """The trial of a row."""
    return (row["question"], row["order"], row["granularity"], row["path"], row["seed"])


class Findings:
    """The `study` table, written anew after every trial; trials that are in it are not run again.

    Args:
        path: the table.
        known: trials with their addresses; rows of other settings, weights or code go.
        motion: rows about the extractor, which stand first.
    """

    def __init__(self, path: Path, known: Mapping[Key, str], motion: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path = path
        rows: list[dict[str, Any]] = read_table(path, "study").to_pylist() if path.is_file() else []
        self.known, self._place = known, list(known).index
        self.motion = [dict(row) for row in motion]
        self.trials = [row for row in rows if known.get(row_key(row)) == row["address"]]
        self.meta: dict[str, str] = {}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows; none before the first trial is through."""
        return [*self.motion, *self.trials] if self.trials else []

    @property
    def done(self) -> set[Key]:
        """Finished trials."""
        return {row_key(row) for row in self.trials}

    def same(self, trial: Trial) -> list[dict[str, Any]]:
        """Rows of a trial that deletes and trains the same under another name, under this one's; or none."""
        address = self.known[key_of(trial)]
        found = [row for row in self.trials if row["address"] == address]
        labels = dict(zip(_LABELS, key_of(trial), strict=True))
        first = [row for row in found if row_key(row) == row_key(found[0])]
        return [{**row, **labels} for row in first]

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a trial's rows, in the order of the plan."""
        self.trials = sorted([*self.trials, *map(dict, rows)], key=lambda row: self._place(row_key(row)))
        write_table(self.path, "study", self.rows, meta=self.meta)


def run_study(
    bench: Bench,
    planned: Mapping[Budget, Sequence[Trial]],
    budget: Budget,
    out: Path,
    interaction: Interaction | None = None,
) -> Iterator[Findings]:
    """Run what is missing of a budget, yielding all that is found so far: at once, and after every trial.

    Args:
        bench: of all trials.
        planned: of both budgets.
        budget: which of them.
        out: the `study` table.
        interaction: of the blocks: what deletions are predicted to do.
    """
    known = {key_of(trial): bench.address(trial) for trial in planned[Budget.full]}
    findings = Findings(out, known, bench.motion_rows())
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
        if key_of(trial) in findings.done:
            continue
        rows = findings.same(trial)
        if not rows:
            rows = bench.run(trial)
            bench.forget(trial)
        if interaction is not None and trial.granularity == BLOCKS:
            rows = [{**row, "predicted": interaction.damage(trial.removed)} for row in rows]
        findings.add(rows)
        yield findings
