"""The schema of every Parquet artefact, and the only way to write and read one.

Writing is atomic: a temporary sibling is filled, flushed to disk and renamed, so that a reader sees the whole
artefact or none. Page checksums alone let about 1 bit flip in 400 through (dictionary pages and the footer are
not covered), so that a SHA-256 of the content stands in the metadata too; both are verified on reading.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.platforms import rename, sync
from leanmotion.pipeline.schemas import SCHEMAS
from leanmotion.pipeline.writing import partial_of, sweep_partials, unwritable, whole

Rows = Sequence[Mapping[str, Any]] | pd.DataFrame | pa.Table

_PREFIX = "leanmotion."
_LABELS = ("variant", "round", "arm", "split", "unit", "block", "first", "probe", "timestep", "step", "prompt", "seed")
"""Columns that say what a row is about, for messages."""


class TableWriter:
    """Writes one artefact row group by row group; it appears under its name when the block ends well.

    Args:
        path: Where the Parquet file goes; its folder is made.
        artefact: A name in `SCHEMAS`.
        meta: Strings kept beside the table (what it was computed from).
    """

    def __init__(self, path: str | Path, artefact: str, meta: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.schema = SCHEMAS[artefact]
        self.meta = {"artefact": artefact, **(meta or {})}
        self.digest = _Digest(self.schema)
        self.rows = 0
        self._partial = partial_of(self.path)

    def __enter__(self) -> "TableWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep_partials(self.path)
            self._file = self._partial.open("wb")
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._writer = pq.ParquetWriter(
            self._file, self.schema, compression="zstd", write_page_checksum=True, store_schema=True
        )
        return self

    def write(self, rows: Rows) -> None:
        """Append rows as one row group. A row that does not fit the schema is a programming error.

        Raises:
            LeanmotionError: A number is not finite (a missing one is null), or the file cannot be written.
        """
        table = _as_table(rows, self.schema)
        _require_finite(self.path, table)
        try:
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.digest.update(table)
        self.rows += table.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                meta = {**self.meta, "digest": self.digest.hexdigest(self.meta)}
                self._writer.add_key_value_metadata({_PREFIX + k: v for k, v in meta.items()})
            self._writer.close()
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if error is None:
                rename(self._partial, self.path)
                sync(self.path.parent)
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def write_table(path: str | Path, artefact: str, rows: Rows, *, meta: Mapping[str, str] | None = None) -> str:
    """Write a whole artefact at once and return the SHA-256 of its content (hexadecimal)."""
    with TableWriter(path, artefact, meta) as writer:
        writer.write(rows)
    return writer.digest.hexdigest(writer.meta)


def stream_table(path: str | Path, artefact: str) -> Iterator[pa.Table]:
    """Yield the row groups of an artefact, one in memory at a time.

    Raises:
        LeanmotionError: Missing, unreadable, of another schema, or not what was written. The last is known only
            at the end of the stream: act on the rows after it.
    """
    path = Path(path)
    file = _open(path, artefact)
    digest = _Digest(SCHEMAS[artefact])
    for index in range(file.num_row_groups):
        try:
            group = file.read_row_group(index)
            group.validate(full=True)
            group = group.replace_schema_metadata(None)
            digest.update(group)
        except Exception as error:  # on damaged bytes pyarrow raises many kinds
            raise _corrupt(path, error) from error
        yield group
    meta = _meta(file)
    if digest.hexdigest({k: v for k, v in meta.items() if k != "digest"}) != meta.get("digest"):
        raise _corrupt(path, "its content is not what was written")


def read_table(path: str | Path, artefact: str) -> pa.Table:
    """Read a whole artefact, verified; its meta stand in `table.schema.metadata` (see `table_meta`)."""
    meta = _meta(_open(Path(path), artefact))
    groups = list(stream_table(path, artefact))
    table = pa.concat_tables(groups) if groups else SCHEMAS[artefact].empty_table()
    return table.replace_schema_metadata(dict(meta))


def table_digest(path: str | Path, artefact: str) -> str:
    """The SHA-256 of an artefact's content that stands beside it; the content itself is not read."""
    return _meta(_open(Path(path), artefact)).get("digest", "")


def read_frame(path: str | Path, artefact: str) -> pd.DataFrame:
    """Read a whole artefact, verified, as a data frame."""
    return read_table(path, artefact).to_pandas()


def artefact_of(path: str | Path) -> str:
    """The artefact's name that a Parquet file says it holds.

    Raises:
        LeanmotionError: Missing, damaged, or not one of ours.
    """
    path = Path(path)
    try:
        name = _meta(pq.ParquetFile(path)).get("artefact", "")
    except FileNotFoundError:
        raise LeanmotionError(f"{path}: no such file: `dvc repro` makes it") from None
    except Exception as error:  # on damaged bytes pyarrow raises many kinds
        raise _corrupt(path, error) from error
    if name not in SCHEMAS:
        raise LeanmotionError(f"{path}: not an artefact of leanmotion")
    return name


def table_meta(table: pa.Table) -> dict[str, str]:
    """The strings written beside a table read by `read_table`."""
    return {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}


def copy_table(source: str | Path, out: str | Path, artefact: str) -> None:
    """Copy an artefact byte by byte, after reading it through; the copy appears whole or not at all."""
    for _ in stream_table(source, artefact):
        pass
    with whole(out) as partial:
        shutil.copyfile(source, partial)


class _Digest:
    """SHA-256 of a table's values, whatever its row groups, null bitmaps or offsets: one hash a column."""

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = {name: hashlib.sha256() for name in schema.names}
        self._schema = schema

    def update(self, table: pa.Table) -> None:
        for name, column in self._columns.items():
            # One array a row group: a list's lengths and values are hashed apart, so that chunks would show.
            chunks = table.column(name).chunks
            if chunks:
                _hash_array(column, pa.concat_arrays(chunks))

    def hexdigest(self, meta: Mapping[str, str]) -> str:
        total = hashlib.sha256(str(self._schema).encode() + repr(sorted(meta.items())).encode())
        for name, column in self._columns.items():
            total.update(name.encode() + column.digest())
        return total.hexdigest()


def _hash_array(sink: Any, array: pa.Array) -> None:
    if array.null_count:
        sink.update(b"nulls" + array.is_null().to_numpy(zero_copy_only=False).tobytes())
        array = array.drop_null()
    if pa.types.is_list(array.type):
        sink.update(array.value_lengths().to_numpy(zero_copy_only=False).tobytes())
        _hash_array(sink, array.flatten())
    elif pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        for value in array.cast(pa.binary()):
            data = value.as_py()
            sink.update(len(data).to_bytes(8, "little") + data)
    else:
        sink.update(array.to_numpy(zero_copy_only=False).tobytes())


def _as_table(rows: Rows, schema: pa.Schema) -> pa.Table:
    if isinstance(rows, pd.DataFrame):
        return pa.Table.from_pandas(rows, schema=schema, preserve_index=False).replace_schema_metadata(None)
    if isinstance(rows, pa.Table):
        return rows.replace_schema_metadata(None).select(schema.names).cast(schema)  # pyright: ignore
    if unknown := {key for row in rows for key in row} - set(schema.names):
        # pyarrow would drop them without a word.
        raise ValueError(f"rows have columns that the schema lacks: {sorted(unknown)}")
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _require_finite(path: Path, table: pa.Table) -> None:
    """The last line of defence: no table holds NaN or infinity. The row is named by its own labels."""
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        values = table.column(name)
        for row in range(len(table)) if _unfinite(values, kind) else ():
            cell = values[row].as_py()
            numbers = cell if isinstance(cell, list) else [cell]
            if any(number is not None and not math.isfinite(number) for number in numbers):
                said = [c for c in _LABELS if c in table.column_names]
                labels = ", ".join(f"{c} {table.column(c)[row].as_py()!r}" for c in said) or f"row {row}"
                raise LeanmotionError(
                    f"{path}: {name} of {labels} is not finite, so nothing was written: check the weights and settings"
                )


def _unfinite(values: pa.ChunkedArray, kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind)
    if not pa.types.is_floating(kind.value_type if is_list else kind):
        return False
    chunks = [chunk.flatten() if is_list else chunk for chunk in values.chunks]
    return not all(np.isfinite(chunk.drop_null().to_numpy(zero_copy_only=False)).all() for chunk in chunks)


def _open(path: Path, artefact: str) -> pq.ParquetFile:
    if not path.is_file():
        raise LeanmotionError(f"{path}: no such file: `dvc repro` makes it")
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        meta = _meta(file)
        schema = file.schema_arrow
    except Exception as error:  # on damaged bytes pyarrow raises many kinds
        raise _corrupt(path, error) from error
    if meta.get("artefact") != artefact or not schema.equals(SCHEMAS[artefact]):
        raise LeanmotionError(f"{path}: not a {artefact} table of this version: `dvc repro -f` the stage that makes it")
    return file


def _meta(file: pq.ParquetFile) -> dict[str, str]:
    pairs = file.metadata.metadata or {}
    return {
        k.decode().removeprefix(_PREFIX): v.decode(errors="replace")
        for k, v in pairs.items()
        if k.decode(errors="replace").startswith(_PREFIX)
    }


def _corrupt(path: Path, problem: object) -> LeanmotionError:
    line = " ".join(str(problem).split())[:160]
    return LeanmotionError(f"{path}: corrupt ({line}): delete it, then `dvc repro` makes it again")


def _unwritable(path: Path, error: OSError) -> LeanmotionError:
    return unwritable(path, error.strerror or error)
