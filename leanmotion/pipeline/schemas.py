"""The columns of every Parquet artefact, by the artefact's name."""

import pyarrow as pa


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()])


_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TEXTS, _REALS = pa.list_(pa.string()), pa.list_(pa.float64())
_TIMES = {
    "variant": _TEXT,
    **dict.fromkeys(("blocks", "parameters", "macs", "rounds"), _INT),
    **dict.fromkeys(("seconds", "saving", "saving_low", "saving_high", "saving_fraction"), _REAL),
    "clock": _TEXT,
}
# What a set of clips comes to beside the original's: of rounds and of the study's trials alike.
_OUTCOME = dict.fromkeys(
    (
        "excess", "excess_low", "excess_high", "fvd", "fvd_low", "fvd_high", "kvd", "paired", "paired_low",
        "paired_high", "motion", "motion_low", "motion_high", "colour_accuracy", "shape_accuracy",
        "motion_accuracy", "motion_accuracy_low", "motion_accuracy_high",
    ),
    _REAL,
)  # fmt: skip

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
    # The chunk store's unit of work: `sampling.chunk` clips of one variant, in order.
    "chunk": _schema(
        prompt=_TEXT,
        seed=_INT,
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
    # One row a unit and step of the sampler. `change`: E|D|^2, D the change of the model's output without the unit, a
    # mean over a latent's numbers and over prompts, with its interval over prompts; `by_prompt`: of each prompt.
    # `weight`: what it counts in the final latent. `variance`: of final latents along the changes of this step.
    "influence": _schema(
        unit=_TEXT,
        block=_TEXT,
        granularity=_TEXT,
        step=_INT,
        timestep=_REAL,
        variance=_REAL,
        weight=_REAL,
        change=_REAL,
        change_low=_REAL,
        change_high=_REAL,
        by_prompt=_REALS,
    ),
    # One row a pair of units of a granularity (a unit with itself too) and step. `value`: E<D_unit, D_other>, likewise.
    "interaction": _schema(
        unit=_TEXT,
        other=_TEXT,
        granularity=_TEXT,
        step=_INT,
        timestep=_REAL,
        weight=_REAL,
        value=_REAL,
        by_prompt=_REALS,
    ),
    # Of the scratch store: inner products of the output's changes without one unit and another, on clips that were
    # drawn together. `values`: one a clip. `along`: a unit's own, times the variance of final latents along the change.
    "changes": _schema(unit=_TEXT, other=_TEXT, step=_INT, timestep=_REAL, values=_REALS, along=_REALS),
    # Measured time of one UNet call: its median, and what is saved against the full UNet (median and quartiles). Of a
    # block its time inside the calls of `watched`, whose own saving is what the clocks cost (below zero). `clock`: the
    # processor's time of one thread, the wall's, or a GPU's events.
    "profile": _schema(**_TIMES),
    # Whole calls of each round. `predicted`: the saving in seconds that its blocks' shares in `profile` add up to.
    "latency": _schema(**_TIMES, predicted=_REAL),
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
    # Of the scratch store: latents of a group of clips as the VAE made them. `values`: float32 in C order.
    "latents": _schema(
        shape=pa.list_(_INT),
        values=pa.binary(),
    ),
    # One row a training step; each term raw and weighted.
    "losses": _schema(
        step=_INT,
        total=_REAL,
        task=_REAL,
        output=_REAL,
        feature=_REAL,
        endpoint=_REAL,
        task_weighted=_REAL,
        output_weighted=_REAL,
        feature_weighted=_REAL,
        endpoint_weighted=_REAL,
        learning_rate=_REAL,
        gradient_norm=_REAL,
    ),
    # One row a block, least important first. `latency` is there only where the criterion uses it.
    "ranking": _schema(
        block=_TEXT,
        position=_INT,
        depth=_INT,
        parameters=_INT,
        macs=_REAL,
        latency=_REAL,
        score=_REAL,
        fvd=_REAL,
        fvd_low=_REAL,
        fvd_high=_REAL,
        kvd=_REAL,
        kvd_low=_REAL,
        kvd_high=_REAL,
        paired=_REAL,
        paired_low=_REAL,
        paired_high=_REAL,
        motion=_REAL,
        motion_low=_REAL,
        motion_high=_REAL,
        rank=_INT,
        rank_low=_INT,
        rank_high=_INT,
        least_probability=_REAL,
        tied=_FLAG,
        similarity=_REAL,
        similarity_block=_REAL,
        similarity_attention=_REAL,
        influence=_REAL,
    ),
    # P(`block` is less important than `other`).
    "pairs": _schema(block=_TEXT, other=_TEXT, probability=_REAL),
    # P(`block` has this rank), 0 = least important.
    "ranks": _schema(block=_TEXT, rank=_INT, probability=_REAL),
    "correlations": _schema(
        first=_TEXT,
        second=_TEXT,
        kendall=_REAL,
        kendall_low=_REAL,
        kendall_high=_REAL,
        spearman=_REAL,
    ),
    # What orders of units by other criteria have in common with the FVD order, and what these cost to ask: MACs of the
    # UNet's calls for all units of the granularity, and their share of what FVD would draw with.
    "criteria": _schema(
        criterion=_TEXT,
        granularity=_TEXT,
        units=_INT,
        kendall=_REAL,
        kendall_low=_REAL,
        kendall_high=_REAL,
        macs=_REAL,
        share=_REAL,
    ),
    # The granularity comparison: several large units against few small ones. Similarity and influence: of single units.
    "probes": _schema(
        probe=_TEXT,
        granularity=_TEXT,
        pick=_TEXT,
        count=_INT,
        units=_TEXTS,
        parameters=_INT,
        macs=_INT,
        videos=_INT,
        fvd=_REAL,
        kvd=_REAL,
        paired=_REAL,
        paired_low=_REAL,
        paired_high=_REAL,
        motion=_REAL,
        similarity=_REAL,
        influence=_REAL,
    ),
    # One row a round, arm (pruned, distilled) and split. `excess`: FVD over the null of the same split, minus 1.
    # `null`: FVD between the original's clips of seeds a and b; `null_paired`, `null_motion` likewise. `null_kvd`: how
    # large KVD is over half-samples of these. `sharpness`, `movement`: as shares of the original's, of the same seeds.
    "evaluation": _schema(
        round=_TEXT,
        arm=_TEXT,
        split=_TEXT,
        removed=_INT,
        parameters=_INT,
        macs=_INT,
        videos=_INT,
        null=_REAL,
        null_kvd=_REAL,
        null_paired=_REAL,
        null_motion=_REAL,
        fvd_cross=_REAL,
        fvd_cross_low=_REAL,
        fvd_cross_high=_REAL,
        sharpness=_REAL,
        sharpness_low=_REAL,
        sharpness_high=_REAL,
        movement=_REAL,
        movement_low=_REAL,
        movement_high=_REAL,
        **_OUTCOME,
    ),
    # The chosen round anew: a row of all sets together, with intervals, and one of each set. None where no round was
    # chosen. Distances are of one set's clips, or means of these over the sets; `videos`: clips, each drawn thrice.
    "confirm": _schema(
        round=_TEXT,
        removed=_INT,
        set=_TEXT,
        videos=_INT,
        captions=_INT,
        null=_REAL,
        fvd_cross=_REAL,
        fvd_cross_low=_REAL,
        fvd_cross_high=_REAL,
        excess=_REAL,
        excess_low=_REAL,
        excess_high=_REAL,
        fvd=_REAL,
        fvd_low=_REAL,
        fvd_high=_REAL,
        motion_accuracy=_REAL,
        motion_accuracy_low=_REAL,
        motion_accuracy_high=_REAL,
        original_motion_accuracy=_REAL,
        original_motion_accuracy_low=_REAL,
        original_motion_accuracy_high=_REAL,
    ),
    # One row a trial of the study and arm. `units`: what was deleted; `steps`: of training over the whole way.
    "study": _schema(
        address=_TEXT,
        question=_TEXT,
        order=_TEXT,
        granularity=_TEXT,
        path=_TEXT,
        seed=_INT,
        steps=_INT,
        arm=_TEXT,
        removed=_INT,
        units=_TEXTS,
        parameters_removed=_INT,
        macs_removed=_INT,
        videos=_INT,
        null=_REAL,
        **_OUTCOME,
        distance_before=_REAL,
        distance_after=_REAL,
    ),
}
