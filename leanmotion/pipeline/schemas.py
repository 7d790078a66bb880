"""The columns of every Parquet artefact, by the artefact's name."""

import pyarrow as pa

from leanmotion.pipeline.column_types import INT, REAL, REALS, TEXT, TEXTS, schema
from leanmotion.pipeline.evidence_schemas import EVIDENCE

_TIMES = {
    "variant": TEXT,
    **dict.fromkeys(("blocks", "parameters", "macs", "rounds"), INT),
    **dict.fromkeys(("seconds", "saving", "saving_low", "saving_high", "saving_fraction"), REAL),
    "clock": TEXT,
}

SCHEMAS: dict[str, pa.Schema] = {
    # One row a unit (21 + 21 + 42 on a v2 adapter). `macs`: of one UNet call on one clip at the sampling size.
    "units": schema(
        unit=TEXT,
        block=TEXT,
        granularity=TEXT,
        address=TEXT,
        depth=INT,
        channels=INT,
        parameters=INT,
        macs=INT,
    ),
    # `index` counts within the split; the first N rows of a split do not depend on N.
    "prompts": schema(
        split=TEXT,
        index=INT,
        prompt=TEXT,
        negative=TEXT,
        seed_a=INT,
        seed_b=INT,
    ),
    # One row a clip. `video`: FFV1, 8-bit RGB, lossless. `removed`: unit ids gone while it was sampled.
    "videos": schema(
        variant=TEXT,
        split=TEXT,
        seeds=TEXT,
        index=INT,
        prompt=TEXT,
        seed=INT,
        removed=TEXTS,
        frames=INT,
        height=INT,
        width=INT,
        video=pa.binary(),
    ),
    # The chunk store's unit of work: `sampling.chunk` clips of one variant, in order.
    "chunk": schema(
        prompt=TEXT,
        seed=INT,
        frames=INT,
        height=INT,
        width=INT,
        video=pa.binary(),
    ),
    # One row a unit and timestep. `residual_cosine`: the residual stream before against after an attention layer.
    "similarity": schema(
        unit=TEXT,
        block=TEXT,
        granularity=TEXT,
        timestep=INT,
        cosine=REAL,
        cosine_std=REAL,
        residual_cosine=REAL,
        count=INT,
    ),
    # One row a unit and step of the sampler. `change`: E|D|^2, D the change of the model's output without the unit, a
    # mean over a latent's numbers and over prompts, with its interval over prompts; `by_prompt`: of each prompt.
    # `weight`: what it counts in the final latent. `variance`: of final latents along the changes of this step.
    "influence": schema(
        unit=TEXT,
        block=TEXT,
        granularity=TEXT,
        step=INT,
        timestep=REAL,
        variance=REAL,
        weight=REAL,
        change=REAL,
        change_low=REAL,
        change_high=REAL,
        by_prompt=REALS,
    ),
    # One row a pair of units of a granularity (a unit with itself too) and step. `value`: E<D_unit, D_other>, likewise.
    "interaction": schema(
        unit=TEXT,
        other=TEXT,
        granularity=TEXT,
        step=INT,
        timestep=REAL,
        weight=REAL,
        value=REAL,
        by_prompt=REALS,
    ),
    # Of the scratch store: inner products of the output's changes without one unit and another, on clips that were
    # drawn together. `values`: one a clip. `along`: a unit's own, times the variance of final latents along the change.
    "changes": schema(unit=TEXT, other=TEXT, step=INT, timestep=REAL, values=REALS, along=REALS),
    # Measured time of one UNet call: its median, and what is saved against the full UNet (median and quartiles). Of a
    # block its time inside the calls of `watched`, whose own saving is what the clocks cost (below zero). `clock`: the
    # processor's time of one thread, the wall's, or a GPU's events.
    "profile": schema(**_TIMES),
    # Whole calls of each round. `predicted`: the saving in seconds that its blocks' shares in `profile` add up to.
    "latency": schema(**_TIMES, predicted=REAL),
    # One row a clip: pooled features, and the motion descriptor (temporal differences) of the same frames.
    "features": schema(
        variant=TEXT,
        split=TEXT,
        seeds=TEXT,
        index=INT,
        prompt=TEXT,
        seed=INT,
        features=pa.list_(pa.float32()),
        motion=pa.list_(pa.float32()),
        labels=TEXTS,
    ),
    # Of the scratch store: what a CLIP model says of each clip of a video table.
    "clip_scores": schema(variant=TEXT, split=TEXT, seeds=TEXT, index=INT, alignment=REAL, consistency=REAL),
    # What distillation trains on. `latents`: float32, [channels, frames, height, width], C order.
    "clips": schema(
        clip=INT,
        caption=TEXT,
        source=TEXT,
        channels=INT,
        frames=INT,
        height=INT,
        width=INT,
        latents=pa.binary(),
    ),
    # Of the scratch store: latents of a group of clips as the VAE made them. `values`: float32 in C order.
    "latents": schema(
        shape=pa.list_(INT),
        values=pa.binary(),
    ),
    # One row a training step; each term raw and weighted.
    "losses": schema(
        step=INT,
        total=REAL,
        task=REAL,
        output=REAL,
        feature=REAL,
        endpoint=REAL,
        task_weighted=REAL,
        output_weighted=REAL,
        feature_weighted=REAL,
        endpoint_weighted=REAL,
        learning_rate=REAL,
        gradient_norm=REAL,
    ),
    **EVIDENCE,
}
