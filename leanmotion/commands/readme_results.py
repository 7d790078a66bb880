"""What git keeps of a run, read for the README."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.settings import Settings, load_settings

_EMBEDDED = ("data/teacher/base", "data/teacher/adapter")


@dataclass(frozen=True)
class Results:
    """What git keeps of a run: rows of `metrics/plots/rounds.csv`, and `ranking.json` and `selection.json`.

    `reason` is the stop rule's sentence, of `selection.txt`. `teacher` is the embedded teacher's `teacher.json`, where
    that is the run's teacher and was checked. `confirmed` is `confirm.json`, but of runs before there was one.
    """

    settings: Settings
    rounds: Sequence[Mapping[str, str]]
    ranking: Mapping[str, Any]
    selection: Mapping[str, Any]
    reason: str
    teacher: Mapping[str, Any] | None = None
    confirmed: Mapping[str, Any] | None = None

    @property
    def shown(self) -> str:
        """The round whose clips are shown: the chosen one, or the furthest where none is."""
        return str(self.selection["round"] if self.selection["round"] != "base" else self.rounds[-1]["round"])

    def removed(self, name: str) -> int:
        """Blocks that are gone after a round."""
        return int(next(row["removed"] for row in self.rounds if row["round"] == name))


def read_results(params: Path, metrics: Path) -> Results:
    """Read what git keeps.

    Raises:
        LeanmotionError: A file is missing or damaged.
    """
    settings, names = load_settings(params), ["ranking", "selection"]
    if (settings.teacher.base, settings.teacher.adapter) == _EMBEDDED and (metrics / "teacher.json").exists():
        names.append("teacher")
    if (metrics / "confirm.json").exists():
        names.append("confirm")
    try:
        with (metrics / "plots/rounds.csv").open(encoding="utf-8", newline="") as file:
            rounds = sorted(csv.DictReader(file), key=lambda row: int(row["removed"]))
        kept = {name: json.loads((metrics / f"{name}.json").read_text(encoding="utf-8")) for name in names}
        # The first line is the reason, the second what is deleted.
        reason = (metrics / "selection.txt").read_text(encoding="utf-8").partition("\n")[0].strip()
    except FileNotFoundError as error:
        raise LeanmotionError(f"{error.filename}: no such file: `dvc repro` makes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LeanmotionError(f"{metrics}: damaged metrics ({error}): `git checkout -- {metrics}`") from error
    ranking, selection, confirmed = kept["ranking"], kept["selection"], kept.get("confirm")
    if confirmed and confirmed["round"] != selection["round"]:
        raise LeanmotionError(
            f"{metrics / 'confirm.json'} is of {confirmed['round']}, not of {selection['round']}: `dvc repro confirm`"
        )
    return Results(settings, rounds, ranking, selection, reason, kept.get("teacher"), confirmed)


def untrained(found: Results, row: Mapping[str, str]) -> bool:
    """Whether a round that could be trained draws, to the bit, what it drew before training."""
    some_left = 0 < int(row["removed"]) < len(found.settings.teacher.blocks)
    return some_left and row["trained"] == "False"


def real(row: Mapping[str, str], key: str) -> float | None:
    """A figure of a CSV row; None where it has none."""
    return float(row[key]) if row.get(key) else None
