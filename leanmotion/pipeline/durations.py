"""How long each stage took in this project on this machine, for `leanmotion plan`: beside all results, in scratch."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.writing import write_text

KEPT = 5
"""Runs of a stage that are remembered: one that found its clips in the store tells nothing of one that draws."""


@contextmanager
def noted() -> Iterator[None]:
    """Note the time of what succeeds inside, under the stage that DVC runs; elsewhere nothing is noted."""
    start = time.monotonic()
    try:
        yield
    except SystemExit as done:
        if not done.code:
            _note(time.monotonic() - start)
        raise
    _note(time.monotonic() - start)


def longest(stage: str) -> float | None:
    """Seconds of the longest of a stage's last runs here; None where none is on record."""
    return max(_read(_file(stage)), default=None)


def _note(seconds: float) -> None:
    # As DVC names it to what it runs.
    if not (stage := os.environ.get("DVC_STAGE")):
        return
    file = _file(stage)
    with suppress(LeanmotionError):  # a result was written: its time may be missing
        write_text(file, json.dumps([*_read(file), round(seconds, 1)][-KEPT:]) + "\n")


def _file(stage: str) -> Path:
    # Projects may share a scratch folder.
    project = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:16]
    return scratch_folder() / "times" / f"{stage.replace(':', '-')}-{project}.json"


def _read(file: Path) -> list[float]:
    try:
        return [float(one) for one in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
