"""What columns of artefacts may hold, and a table's schema out of its columns."""

import pyarrow as pa

TEXT, INT, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
TEXTS, REALS = pa.list_(pa.string()), pa.list_(pa.float64())


def schema(**columns: pa.DataType) -> pa.Schema:
    """A table of these columns, in this order; each may hold nulls."""
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])
