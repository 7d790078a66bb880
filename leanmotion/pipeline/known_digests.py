"""Digests of large files that another stage of the same `dvc` command has computed: reading gigabytes takes seconds.

A digest counts again for a file of the same path, device, inode, size and times. docs/reliability.md says what that
does not catch.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.dvc import is_dvc
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.scratch import scratch_folder

_SETTLED = 2 * 10**9
"""Nanoseconds by which a file's times have to be past: a clock's tick could hide a change that came right after."""


def known_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; read only where no stage of this very run has."""
    run = _run()
    place = scratch_folder() / "digests" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    before = {"run": run, "path": str(path.resolve()), "file": _told(path)}
    if run is not None and place.is_file():
        with suppress(LeanmotionError):
            kept = read_record(place, made_by="dvc repro")
            if {name: kept.get(name) for name in before} == before:
                return str(kept["sha256"])
    started = time.time_ns()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    after = _told(path)
    if run is not None and after == before["file"] and max(after[-2:]) + _SETTLED < started:
        with suppress(LeanmotionError, OSError):  # a digest more or less
            place.parent.mkdir(parents=True, exist_ok=True)
            write_record(place, {**before, "sha256": digest})
    return digest


def _told(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _run() -> list[Any] | None:
    """The `dvc` command that this process works for, by number and start; None outside of one."""
    for process in psutil.Process().parents():
        if is_dvc(process):
            with suppress(psutil.Error):
                return [process.pid, process.create_time()]
    return None
