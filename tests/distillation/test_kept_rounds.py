"""The store of finished rounds: whole or not at all, the newest of a round, and nothing that is damaged."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from leanmotion.distillation.kept_rounds import KeptRounds


@pytest.fixture
def kept(tmp_path: Path) -> KeptRounds:
    return KeptRounds(tmp_path / "rounds")


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student's folder, as far as the store looks into it."""
    content = {
        "adapter/config.json": b"{}",
        "adapter/weights": bytes(range(256)),
        "losses.parquet": b"PAR1",
        "student.json": b"{1}",
    }
    for name, data in content.items():
        (tmp_path / "r2" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "r2" / name).write_bytes(data)
    return tmp_path / "r2"


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_what_was_kept_comes_back(kept, student, tmp_path, monkeypatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert not kept.take("r2", "a" * 64, tmp_path / "out") and not (tmp_path / "out").exists()
    kept.keep("r2", "a" * 64, student)
    counts = {path.stat().st_nlink for path in student.rglob("*") if path.is_file()}
    assert counts == ({2} if links else {1})
    content = files(student)
    shutil.rmtree(student)  # as DVC does before it runs the round again
    # Into a folder that holds another student, of which nothing may stay.
    (tmp_path / "out/adapter").mkdir(parents=True)
    (tmp_path / "out/adapter/README.md").touch()
    for _ in range(2):
        assert kept.take("r2", "a" * 64, tmp_path / "out")
        assert files(tmp_path / "out") == content
    assert not kept.take("r2", "b" * 64, tmp_path / "other") and not kept.take("r4", "a" * 64, tmp_path / "other")
    assert not list(tmp_path.rglob("*.partial"))


def test_the_newest_of_each_round_stays(kept, student) -> None:
    for address in ("a" * 64, "b" * 64, "b" * 64):
        kept.keep("r2", address, student)
    kept.keep("r4", "c" * 64, student)
    assert {p.parts[-2:] for p in kept.folder.glob("*/*")} == {("r2", "b" * 64), ("r4", "c" * 64)}


@pytest.mark.parametrize("name", ["student.json", "losses.parquet", "adapter/weights", "kept.json"])
def test_a_damaged_or_missing_file_drops_it(kept, student, tmp_path, caplog, name: str) -> None:
    for harm in ("flip", "cut", "remove"):
        kept.keep("r2", "a" * 64, student)
        path = kept.path("r2", "a" * 64) / name
        data = bytearray(path.read_bytes())
        path.unlink()  # the link alone, not what it shares
        if harm != "remove":
            data[len(data) // 2] ^= 1
            path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
        assert not kept.take("r2", "a" * 64, tmp_path / "out"), harm
        assert not (tmp_path / "out").exists() and not path.parents[0].exists()
    assert caplog.text.count("is damaged, and trained again") == 3


def test_another_round_under_the_name_is_not_taken(kept, student, tmp_path) -> None:
    kept.keep("r2", "a" * 64, student)
    (kept.folder / "r2").rename(kept.folder / "r4")
    assert not kept.take("r4", "a" * 64, tmp_path / "out")
    kept.keep("r2", "a" * 64, student)
    kept.path("r2", "a" * 64).rename(kept.path("r2", "b" * 64))
    assert not kept.take("r2", "b" * 64, tmp_path / "out")


def test_a_file_that_was_not_kept_drops_it(kept, student, tmp_path) -> None:
    kept.keep("r2", "a" * 64, student)
    (kept.path("r2", "a" * 64) / "adapter/more").touch()
    assert not kept.take("r2", "a" * 64, tmp_path / "out")


def test_a_writer_killed_half_way_leaves_what_was_there(kept, student, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    kept.keep("r2", "a" * 64, student)
    real, done = os.link, []

    def link(source: Path, target: Path) -> None:
        if len(done) == 2:
            raise Killed
        done.append(real(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        with pytest.raises(Killed):
            kept.keep("r2", "b" * 64, student)
    assert [path.name for path in (kept.folder / "r2").iterdir()] == ["a" * 64]
    # A kill -9 leaves a partial folder, which the next writer of the same round sweeps.
    (kept.folder / "r2" / f".{'b' * 64}.999999999.partial/adapter").mkdir(parents=True)
    kept.keep("r2", "b" * 64, student)
    assert [path.name for path in (kept.folder / "r2").iterdir()] == ["b" * 64]
