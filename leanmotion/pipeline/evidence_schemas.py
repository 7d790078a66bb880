"""The columns of what is concluded from clips: ranking, probes, rounds, what confirms, the study."""

import pyarrow as pa

from leanmotion.pipeline.column_types import FLAG, INT, REAL, TEXT, TEXTS, schema

# What a set of clips comes to beside the original's: of rounds and of the study's trials alike.
_OUTCOME = dict.fromkeys(
    (
        "excess", "excess_low", "excess_high", "fvd", "fvd_low", "fvd_high", "kvd", "paired", "paired_low",
        "paired_high", "motion", "motion_low", "motion_high", "colour_accuracy", "shape_accuracy",
        "motion_accuracy", "motion_accuracy_low", "motion_accuracy_high", "alignment", "alignment_low",
        "alignment_high", "consistency", "consistency_low", "consistency_high",
    ),
    REAL,
)  # fmt: skip

EVIDENCE: dict[str, pa.Schema] = {
    # One row a block, least important first. `latency` is there only where the criterion uses it.
    "ranking": schema(
        block=TEXT,
        position=INT,
        depth=INT,
        parameters=INT,
        macs=REAL,
        latency=REAL,
        score=REAL,
        fvd=REAL,
        fvd_low=REAL,
        fvd_high=REAL,
        kvd=REAL,
        kvd_low=REAL,
        kvd_high=REAL,
        paired=REAL,
        paired_low=REAL,
        paired_high=REAL,
        motion=REAL,
        motion_low=REAL,
        motion_high=REAL,
        rank=INT,
        rank_low=INT,
        rank_high=INT,
        least_probability=REAL,
        tied=FLAG,
        similarity=REAL,
        similarity_block=REAL,
        similarity_attention=REAL,
        influence=REAL,
    ),
    # P(`block` is less important than `other`).
    "pairs": schema(block=TEXT, other=TEXT, probability=REAL),
    # P(`block` has this rank), 0 = least important.
    "ranks": schema(block=TEXT, rank=INT, probability=REAL),
    "correlations": schema(
        first=TEXT,
        second=TEXT,
        kendall=REAL,
        kendall_low=REAL,
        kendall_high=REAL,
        spearman=REAL,
    ),
    # What orders of units by other criteria have in common with the FVD order, and what these cost to ask: MACs of the
    # UNet's calls for all units of the granularity, and their share of what FVD would draw with.
    "criteria": schema(
        criterion=TEXT,
        granularity=TEXT,
        units=INT,
        kendall=REAL,
        kendall_low=REAL,
        kendall_high=REAL,
        macs=REAL,
        share=REAL,
    ),
    # The granularity comparison: several large units against few small ones. Similarity and influence: of single units.
    "probes": schema(
        probe=TEXT,
        granularity=TEXT,
        pick=TEXT,
        count=INT,
        units=TEXTS,
        parameters=INT,
        macs=INT,
        videos=INT,
        fvd=REAL,
        kvd=REAL,
        paired=REAL,
        paired_low=REAL,
        paired_high=REAL,
        motion=REAL,
        similarity=REAL,
        influence=REAL,
    ),
    # One row a round, arm (pruned, distilled) and split. `excess`: FVD over the null of the same split, minus 1.
    # `null`: FVD between the original's clips of seeds a and b; `null_paired`, `null_motion` likewise. `null_kvd`: how
    # large KVD is over half-samples of these. `sharpness`, `movement`: as shares of the original's, of the same seeds.
    "evaluation": schema(
        round=TEXT,
        arm=TEXT,
        split=TEXT,
        removed=INT,
        parameters=INT,
        macs=INT,
        videos=INT,
        null=REAL,
        null_kvd=REAL,
        null_paired=REAL,
        null_motion=REAL,
        fvd_cross=REAL,
        fvd_cross_low=REAL,
        fvd_cross_high=REAL,
        sharpness=REAL,
        sharpness_low=REAL,
        sharpness_high=REAL,
        movement=REAL,
        movement_low=REAL,
        movement_high=REAL,
        **_OUTCOME,
    ),
    # The chosen round anew: a row of all sets together, with intervals, and one of each set. None where no round was
    # chosen. Distances are of one set's clips, or means of these over the sets; `videos`: clips, each drawn thrice.
    "confirm": schema(
        round=TEXT,
        removed=INT,
        set=TEXT,
        videos=INT,
        captions=INT,
        null=REAL,
        fvd_cross=REAL,
        fvd_cross_low=REAL,
        fvd_cross_high=REAL,
        excess=REAL,
        excess_low=REAL,
        excess_high=REAL,
        fvd=REAL,
        fvd_low=REAL,
        fvd_high=REAL,
        motion_accuracy=REAL,
        motion_accuracy_low=REAL,
        motion_accuracy_high=REAL,
        original_motion_accuracy=REAL,
        original_motion_accuracy_low=REAL,
        original_motion_accuracy_high=REAL,
    ),
    # One row a trial of the study and arm. `units`: what was deleted; `steps`: of training over the whole way, 0 where
    # it was drawn only; `predicted`: damage by the matrix of interactions, of whole blocks.
    "study": schema(
        address=TEXT,
        question=TEXT,
        order=TEXT,
        granularity=TEXT,
        path=TEXT,
        seed=INT,
        steps=INT,
        arm=TEXT,
        removed=INT,
        units=TEXTS,
        parameters_removed=INT,
        macs_removed=INT,
        videos=INT,
        null=REAL,
        predicted=REAL,
        **_OUTCOME,
        distance_before=REAL,
        distance_after=REAL,
    ),
}
