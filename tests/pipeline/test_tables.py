"""Artefacts appear whole or not at all, and what is read is what was written."""

import os
import random
import stat
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline import tables
from leanmotion.pipeline.schemas import SCHEMAS
from leanmotion.pipeline.tables import (
    TableWriter,
    read_frame,
    read_table,
    stream_table,
    table_meta,
    write_table,
)
from leanmotion.pipeline.writing import write_text


def rows(count: int, seed: int = 0) -> list[dict]:
    """Rows of `videos`: text, integers, lists and bytes, repetitive (dictionary pages) and random."""
    generator = random.Random(seed)
    return [
        {"variant": "full", "split": "rank", "seeds": "a", "index": i, "prompt": f"a {'red' if i % 2 else 'blue'} dog",
         "seed": generator.randrange(2**32), "removed": ["mid_0", "up_3_2"][: i % 3], "frames": 4, "height": 8,
         "width": 8, "video": generator.randbytes(200)}
        for i in range(count)
    ]  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_read_is_what_was_written(tmp_path) -> None:
    path = tmp_path / "new" / "videos.parquet"
    digest = write_table(path, "videos", rows(10), meta={"sampling": '{"steps": 3}'})
    table = read_table(path, "videos")
    assert table.to_pylist() == rows(10) and table.schema.equals(SCHEMAS["videos"])
    assert table_meta(table) == {"artefact": "videos", "sampling": '{"steps": 3}', "digest": digest}
    assert names(path.parent) == ["videos.parquet"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def test_the_same_rows_are_the_same_bytes(tmp_path) -> None:
    for name in "ab":
        write_table(tmp_path / name, "videos", rows(10))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_frames_tables_and_rows_are_written_alike(tmp_path) -> None:
    forms = {"rows": rows(7), "frame": pd.DataFrame(rows(7)), "table": pa.Table.from_pylist(rows(7))}
    assert len({write_table(tmp_path / name, "videos", form) for name, form in forms.items()}) == 1
    assert all(read_table(tmp_path / name, "videos").to_pylist() == rows(7) for name in forms)


def test_a_table_in_pieces_is_read_back(tmp_path) -> None:
    """In memory a column may lie in several pieces, with nulls in one of them: on disk it is one."""
    whole = pa.Table.from_pylist([*rows(3), {**rows(4)[3], "prompt": None, "removed": None}], schema=SCHEMAS["videos"])
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 2), whole.slice(3)])
    assert pieces["prompt"].num_chunks == 3
    write_table(tmp_path / "t", "videos", pieces)
    assert read_table(tmp_path / "t", "videos").equals(whole)


def test_streaming(tmp_path) -> None:
    path = tmp_path / "t"
    with TableWriter(path, "videos") as writer:
        for start in range(0, 9, 3):
            assert names(tmp_path) == [f".t.{os.getpid()}.partial"]
            writer.write(rows(9)[start : start + 3])
    assert writer.rows == 9
    groups = list(stream_table(path, "videos"))
    assert [len(group) for group in groups] == [3, 3, 3]
    assert [row for group in groups for row in group.to_pylist()] == rows(9)


def test_an_empty_table(tmp_path) -> None:
    write_table(tmp_path / "none", "losses", [])
    with TableWriter(tmp_path / "nothing", "losses"):
        pass
    for name in ("none", "nothing"):
        assert len(read_frame(tmp_path / name, "losses")) == 0
        assert list(read_frame(tmp_path / name, "losses")) == SCHEMAS["losses"].names


def test_missing_values_and_odd_floats(tmp_path) -> None:
    values = [None, 0.0, -0.0, 1.7e308, 1e-310, None]
    write_table(tmp_path / "t", "losses", [{"step": i, "total": value} for i, value in enumerate(values)])
    assert repr(read_table(tmp_path / "t", "losses")["total"].to_pylist()) == repr(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_table_holds_what_is_not_finite(tmp_path, value: float) -> None:
    with pytest.raises(LeanmotionError, match=r"t: total of step 7 is not finite"):
        write_table(tmp_path / "t", "losses", [{"step": 6, "total": 1.0}, {"step": 7, "total": value}])
    row = {"variant": "mid_0", "split": "rank", "prompt": "a dog", "seed": 5, "features": [1.0, value]}
    with pytest.raises(LeanmotionError, match=r"features of variant 'mid_0', split 'rank', prompt 'a dog', seed 5"):
        write_table(tmp_path / "t", "features", [row])
    assert names(tmp_path) == []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=50), st.lists(st.text(max_size=5), max_size=3), st.none() | st.integers(0, 9)))
)
def test_any_text_survives(tmp_path_factory, values) -> None:
    path = tmp_path_factory.mktemp("any") / "probes.parquet"
    given = [{"probe": text, "units": units, "count": count} for text, units, count in values]
    write_table(path, "probes", given)
    table = read_table(path, "probes").select(["probe", "units", "count"])
    assert table.to_pylist() == given


def test_a_writer_that_fails_leaves_nothing(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="midway"), TableWriter(tmp_path / "t", "videos") as writer:
        writer.write(rows(3))
        raise RuntimeError("midway")
    assert names(tmp_path) == []


def test_a_writer_that_fails_keeps_the_old_file(tmp_path) -> None:
    path = tmp_path / "t"
    write_table(path, "videos", rows(3))
    old = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), TableWriter(path, "videos") as writer:
        writer.write(rows(5))
        raise KeyboardInterrupt
    assert path.read_bytes() == old and names(tmp_path) == ["t"]


def test_rows_of_unknown_columns_are_a_mistake(tmp_path) -> None:
    with pytest.raises(ValueError, match="colour"):
        write_table(tmp_path / "t", "losses", [{"step": 1, "colour": "red"}])
    assert names(tmp_path) == []


def test_damage_is_named_or_harmless(tmp_path) -> None:
    """200 random bit flips and cuts of a table of several row groups: never a silently different one."""
    path = tmp_path / "videos.parquet"
    with TableWriter(path, "videos", {"note": "kept"}) as writer:
        writer.write(rows(12, seed=1))
        writer.write(rows(12, seed=2))
    original, table, meta = path.read_bytes(), read_table(path, "videos"), table_meta(read_table(path, "videos"))
    generator, detected = random.Random(0), 0
    for case in range(200):
        damaged = bytearray(original)
        if case % 4 == 0:
            damaged = damaged[: generator.randrange(len(damaged))]
        else:
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_table(path, "videos")
        except LeanmotionError as error:
            assert str(path) in str(error) and "dvc repro" in str(error) and "\n" not in str(error)
            detected += 1
        else:
            assert found.equals(table) and table_meta(found) == meta, f"case {case} went unseen"
    assert detected >= 100  # every cut and most flips; the rest hit bytes that mean nothing (statistics, padding)


def test_an_exchanged_row_group_is_not_the_table_that_was_written(tmp_path) -> None:
    """Valid Parquet with intact checksums, but other content under the old digest."""
    path = tmp_path / "t"
    write_table(path, "losses", [{"step": 1, "total": 2.0}])
    meta = pq.ParquetFile(path).metadata.metadata
    forged = pa.Table.from_pylist([{"step": 1, "total": 3.0}], schema=SCHEMAS["losses"])
    pq.write_table(forged.replace_schema_metadata(meta), path, write_page_checksum=True)
    with pytest.raises(LeanmotionError, match="not what was written"):
        read_table(path, "losses")


def test_another_artefact_is_refused(tmp_path) -> None:
    write_table(tmp_path / "t", "losses", [{"step": 1}])
    with pytest.raises(LeanmotionError, match="not a ranking table"):
        read_table(tmp_path / "t", "ranking")


def test_another_schema_is_refused(tmp_path, monkeypatch) -> None:
    """A table that an older version wrote: same artefact, a column fewer."""
    older = {**SCHEMAS, "losses": SCHEMAS["losses"].remove(1)}
    monkeypatch.setattr(tables, "SCHEMAS", older)
    write_table(tmp_path / "t", "losses", [{"step": 1}])
    monkeypatch.undo()
    with pytest.raises(LeanmotionError, match="not a losses table of this version"):
        read_table(tmp_path / "t", "losses")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_is_named(tmp_path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(LeanmotionError, match=r"corrupt .* delete it"):
        read_table(tmp_path / "t", "losses")


def test_a_parquet_file_of_someone_else(tmp_path) -> None:
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "t")
    with pytest.raises(LeanmotionError, match="not a losses table"):
        read_table(tmp_path / "t", "losses")


def test_a_missing_table_is_named(tmp_path) -> None:
    with pytest.raises(LeanmotionError, match=r"ranking\.parquet: no such file: `dvc repro`"):
        read_frame(tmp_path / "ranking.parquet", "ranking")


def test_partials_of_dead_writers_are_swept(tmp_path) -> None:
    dead = 2**22 + 1  # beyond the largest process id
    stale = tmp_path / f".t.{dead}.partial"
    living = tmp_path / f".t.{os.getppid()}.partial"
    another = tmp_path / f".u.{dead}.partial"
    for path in (stale, living, another):
        path.write_bytes(b"half")
    write_table(tmp_path / "t", "losses", [{"step": 1}])
    assert names(tmp_path) == sorted([living.name, another.name, "t"])
    write_text(tmp_path / "u", "text")
    assert not another.exists()


def test_a_folder_that_is_a_file_is_said_in_one_line(tmp_path) -> None:
    (tmp_path / "data").write_text("in the way")
    for write in (
        lambda path: write_table(path, "losses", []),
        lambda path: write_text(path, "x"),
    ):
        with pytest.raises(LeanmotionError, match=r"cannot be written .*mend its rights") as caught:
            write(tmp_path / "data" / "t")
        assert "\n" not in str(caught.value)


def test_a_folder_without_rights_is_said_in_one_line() -> None:
    """Root may write anywhere: there, as another user for a while."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            for write in (lambda: write_table(folder / "t", "losses", []), lambda: write_text(folder / "t", "x")):
                with pytest.raises(LeanmotionError, match=r"cannot be written \(Permission denied\)"):
                    write()
        finally:
            os.seteuid(user)
            folder.chmod(0o700)


def test_a_full_disk_is_said_in_one_line_and_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "t"
    write_table(path, "losses", [{"step": 1}])
    write_text(tmp_path / "u", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LeanmotionError, match="No space left on device"):
        write_table(path, "losses", [{"step": 2}])
    with pytest.raises(LeanmotionError, match="No space left on device"):
        write_text(tmp_path / "u", "new")
    monkeypatch.undo()
    assert read_frame(path, "losses")["step"].tolist() == [1]
    assert (tmp_path / "u").read_text() == "old" and names(tmp_path) == ["t", "u"]


def test_text_is_written_whole(tmp_path) -> None:
    write_text(tmp_path / "deep" / "x.json", "é 🎬\n")
    assert (tmp_path / "deep" / "x.json").read_text(encoding="utf-8") == "é 🎬\n"
    assert names(tmp_path / "deep") == ["x.json"]


def test_numpy_columns(tmp_path) -> None:
    """Features as arrays in a frame, as the embed stage writes them."""
    frame = pd.DataFrame({"variant": ["full"] * 2, "split": "rank", "seeds": "a", "index": [0, 1], "prompt": "p"})
    frame["seed"] = np.array([1, 2**32 - 1])
    frame["features"] = frame["motion"] = list(np.arange(6, dtype=np.float32).reshape(2, 3))
    frame["labels"] = [["red"], []]
    write_table(tmp_path / "t", "features", frame)
    read = read_frame(tmp_path / "t", "features")
    assert np.array_equal(np.stack(read["features"].to_list()), np.arange(6).reshape(2, 3))
    assert read["seed"].tolist() == [1, 2**32 - 1]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
