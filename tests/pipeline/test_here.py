"""Claims and writing on whatever system this is, with nothing in its place."""

import os
import subprocess
import sys
from pathlib import Path

from committed import ROOT

from leanmotion.pipeline.claims import Claims
from leanmotion.pipeline.platforms import peak_memory, rename, sync
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.pipeline.writing import whole, write_text

TAKE = """
import sys
from pathlib import Path
from leanmotion.pipeline.claims import Claims
print(*(Claims(Path(sys.argv[1])).take(name) for name in sys.argv[2:]))
sys.stdin.read()
"""


def takes(path: Path, *names: str) -> "subprocess.Popen[str]":
    """Another process, which takes claims and keeps what it got until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, str(path), *names], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def test_claims_hold_against_another_process_and_end_with_it(tmp_path: Path) -> None:
    claims, first, second = Claims(tmp_path / "claims"), "ab" * 32, "cd" * 32
    assert claims.take(first)
    other = takes(tmp_path / "claims", first, second)
    assert other.stdout and other.stdout.readline().split() == ["False", "True"]
    assert not claims.take(second)
    other.kill()
    other.communicate()
    assert claims.take(second)
    claims.release(first)
    claims.release(second)
    other = takes(tmp_path / "claims", first, second)
    said, _ = other.communicate("")
    assert said.split() == ["True", "True"]


def test_what_is_written_is_there_whole_with_the_same_bytes(tmp_path: Path) -> None:
    for time in range(2):  # the second over the first
        write_text(tmp_path / "t.txt", f"é 🎬\n{time}\n")
        write_table(tmp_path / "t.parquet", "losses", [{"step": time}])
        write_record(tmp_path / "t.json", {"time": time})
    with whole(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "file").write_bytes(b"x")
    assert (tmp_path / "t.txt").read_bytes() == "é 🎬\n1\n".encode()
    assert read_frame(tmp_path / "t.parquet", "losses")["step"].tolist() == [1]
    assert read_record(tmp_path / "t.json", made_by="x") == {"time": 1}
    rename(tmp_path / "folder", tmp_path / "renamed")
    sync(tmp_path / "renamed" / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["renamed", "t.json", "t.parquet", "t.txt"]
    assert peak_memory() > 2**20
