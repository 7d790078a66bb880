"""What the rounds of the last run save of a call, as `measure` timed them: whole calls, not sums over blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmotion.model.student import Student
from leanmotion.pipeline.tables import read_frame


@dataclass(frozen=True)
class TimedRound:
    """A round that was timed. `saved`: share of the whole call, or of its motion modules."""

    name: str
    removed: tuple[str, ...]
    saved: float


def timed_rounds(data: Path, macs: Mapping[str, int], whole: int, of: str) -> list[TimedRound]:
    """Rounds with a measured time, none where nothing was measured yet.

    A share is that of README and report: the round's median call over that of the whole model. A student that was made
    since is left out: its multiply-accumulates are no longer those of the measured call.

    Args:
        data: the folder of artefacts.
        macs: of each block.
        whole: of the call.
        of: `call` or `motion`.
    """
    if not (data / "latency.parquet").is_file():
        return []
    calls: Any = read_frame(data / "latency.parquet", "latency").set_index("variant")
    left = calls["seconds"] / calls.loc["full", "seconds"]
    part = 1.0 if of == "call" else 1 - float(left["none"])
    found = []
    for name in map(str, calls.index):
        if not (data / "students" / name / "student.json").is_file():
            continue
        removed = Student.read(data / "students" / name).removed
        if part > 0 and calls.loc[name, "macs"] == whole - sum(macs[block] for block in removed):
            found.append(TimedRound(name, removed, (1 - float(left[name])) / part))
    return found
