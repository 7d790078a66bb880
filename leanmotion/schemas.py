"""The columns of every Parquet artefact, by the artefact's name."""

import pyarrow as pa


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()])


_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TEXTS = pa.list_(pa.string())

SCHEMAS: dict[str, pa.Schema] = {
    # One row a unit (21 + 21 + 42 on a v2 adapter). `macs`: of one UNet call on one clip at the sampling size.
    "units": _schema(
        unit=_TEXT,
        block=_TEXT,
        granularity=_TEXT,
        address=_TEXT,
        depth=_INT,
        channels=_INT,
        parameters=_INT,
        macs=_INT,
    ),
    # `index` counts within the split; the first N rows of a split do not depend on N.
    "prompts": _schema(
        split=_TEXT,
        index=_INT,
        prompt=_TEXT,
        negative=_TEXT,
        seed_a=_INT,
        seed_b=_INT,
    ),
    # One row a clip. `video`: FFV1, 8-bit RGB, lossless. `removed`: unit ids gone while it was sampled.
    "videos": _schema(
        variant=_TEXT,
        split=_TEXT,
        seeds=_TEXT,
        index=_INT,
        prompt=_TEXT,
        seed=_INT,
        removed=_TEXTS,
        frames=_INT,
        height=_INT,
        width=_INT,
        video=pa.binary(),
    ),
    # One row a unit and timestep. `residual_cosine`: the residual stream before against after an attention layer.
    "similarity": _schema(
        unit=_TEXT,
        block=_TEXT,
        granularity=_TEXT,
        timestep=_INT,
        cosine=_REAL,
        cosine_std=_REAL,
        residual_cosine=_REAL,
        count=_INT,
    ),
    # Measured time: seconds of one UNet call, by round of the interleaved measurement.
    "profile": _schema(
        variant=_TEXT,
        removed=_TEXTS,
        parameters=_INT,
        macs=_INT,
        seconds_median=_REAL,
        seconds_low=_REAL,
        seconds_high=_REAL,
        saving_median=_REAL,
        saving_low=_REAL,
        saving_high=_REAL,
        rounds=_INT,
    ),
    # One row a clip: pooled features, and the motion descriptor (temporal differences) of the same frames.
    "features": _schema(
        variant=_TEXT,
        split=_TEXT,
        seeds=_TEXT,
        index=_INT,
        prompt=_TEXT,
        seed=_INT,
        features=pa.list_(pa.float32()),
        motion=pa.list_(pa.float32()),
        labels=_TEXTS,
    ),
    # What distillation trains on. `latents`: float32, [channels, frames, height, width], C order.
    "clips": _schema(
        clip=_INT,
        caption=_TEXT,
        source=_TEXT,
        channels=_INT,
        frames=_INT,
        height=_INT,
        width=_INT,
        latents=pa.binary(),
    ),
    # One row a training step; each term raw and weighted.
    "losses": _schema(
        step=_INT,
        total=_REAL,
        task=_REAL,
        output=_REAL,
        feature=_REAL,
        task_weighted=_REAL,
        output_weighted=_REAL,
        feature_weighted=_REAL,
        learning_rate=_REAL,
        gradient_norm=_REAL,
    ),
}
