"""A large file is read once a run: anything that tells of a change, and any other run, has it read again."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leanmotion.pipeline import digests, known_digests
from leanmotion.pipeline.digests import file_sha256


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, written a while ago."""
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(digests, "LARGE", 4)
    monkeypatch.setattr(known_digests, "_run", lambda: [1, 2.0])
    monkeypatch.setattr(known_digests, "_SETTLED", 0)
    (path := tmp_path / "weights.safetensors").write_bytes(b"as it was")
    time.sleep(0.02)
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were read through."""
    found: list[str] = []
    real = hashlib.file_digest

    def noted(file: Any, how: str) -> Any:
        found.append(Path(file.name).name)
        return real(file, how)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return found


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_it_is_read_once_a_run(weights: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [file_sha256(weights) for _ in range(3)] == [sha(b"as it was")] * 3 and len(read) == 1
    monkeypatch.setattr(known_digests, "_run", lambda: [1, 3.0])
    assert file_sha256(weights) == sha(b"as it was") and len(read) == 2
    monkeypatch.setattr(known_digests, "_run", lambda: None)  # outside of `dvc repro`
    assert [file_sha256(weights) for _ in range(2)] == [sha(b"as it was")] * 2 and len(read) == 4


def test_small_files_are_always_read(weights: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "LARGE", 100)
    assert file_sha256(weights) == file_sha256(weights) and len(read) == 2


def altered(path: Path) -> None:
    path.write_bytes(b"as it isn")  # of the same size


def altered_with_its_time_put_back(path: Path) -> None:
    times = path.stat()
    path.write_bytes(b"as it isn")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced_with_its_time_put_back(path: Path) -> None:
    times = path.stat()
    (other := path.with_name("other")).write_bytes(b"as it isn")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [altered, altered_with_its_time_put_back, replaced_with_its_time_put_back])
def test_a_change_is_seen(change: Callable[[Path], None], weights: Path) -> None:
    assert file_sha256(weights) == sha(b"as it was")
    change(weights)
    assert file_sha256(weights) == sha(b"as it isn")


def test_a_file_that_was_written_just_now_is_not_remembered(
    weights: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change within the same tick of the clock would not show."""
    monkeypatch.setattr(known_digests, "_SETTLED", 2 * 10**9)
    weights.write_bytes(b"just now")
    assert file_sha256(weights) == file_sha256(weights) == sha(b"just now") and len(read) == 2


def test_a_damaged_record_is_no_answer(weights: Path, read: list[str], tmp_path: Path) -> None:
    file_sha256(weights)
    (kept,) = (tmp_path / "scratch/digests").iterdir()
    kept.write_text(kept.read_text().replace(sha(b"as it was")[:8], "00000000"))
    assert file_sha256(weights) == sha(b"as it was") and len(read) == 2
    shutil.rmtree(kept.parent)
    assert file_sha256(weights) == sha(b"as it was") and len(read) == 3


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "none")
