"""What tables and their columns mean, for whoever meets them the first time: `leanmotion show` prints these lines.

For eyes: no stage reads them, and no stored table holds them.
"""

from collections.abc import Iterable
from typing import Any

ROWS = {
    "units": "a unit that can be deleted; MACs are of one UNet call on one clip",
    "prompts": "a prompt, drawn once with each of its two seeds",
    "videos": "a clip; its frames: `-o sheet.png`",
    "chunk": "a clip of a chunk, the unit of the chunk store",
    "similarity": "a unit and timestep: how alike its input and output are (high: it changes little)",
    "influence": "a unit and step of the sampler: how much the model's output changes without it",
    "interaction": "a pair of units and a step: how far the output's changes without one and the other go together",
    "changes": "a pair of units and a step of the sampler, on clips that were drawn together",
    "profile": "a block that is removed from the UNet; full: nothing is; none: no motion block is left; "
    "watched: nothing is, and clocks run",
    "latency": "a round's blocks removed from the UNet; full: nothing is; none: no motion block is left",
    "features": "a clip, as the extractor sees it",
    "clip_scores": "a clip, as a CLIP model sees it",
    "clips": "a clip that students are trained on",
    "latents": "a group of clips, as the VAE made them",
    "losses": "a training step; no row: nothing was trained",
    "ranking": "a motion block that is deleted, least important first",
    "pairs": "a pair of blocks",
    "ranks": "a block and a rank",
    "correlations": "a pair of measures: do they order the blocks alike?",
    "criteria": "a criterion: does it order units as FVD does, and what does asking it cost?",
    "probes": "a set of units that was deleted to compare few large ones with many small ones",
    "evaluation": "a round of deletions, before (pruned) and after repair (distilled), on one split of the prompts",
    "confirm": "the chosen round on new clips that no choice used: all sets together, then each",
    "study": "a trial of `make study`: what deleting other sets of units does",
    "carry_over": "a condition that the chosen round was not judged under (`make carry-over`)",
}
"""Artefact -> what one row is about."""

_GENERAL = {
    "address": "where the unit is in the model",
    "alignment": "cosine of frames and prompt by a CLIP model; only where evaluation.clip names one",
    "along": "by clip: change times the variance of final latents along it",
    "arm": "pruned: blocks deleted; distilled: and repaired; original: other seeds of the whole model",
    "block": "motion block: part of the UNet, level, place",
    "blocks": "how many blocks are removed",
    "captions": "different ones among them",
    "change": "mean squared change of the model's output without the unit",
    "clock": "what was read: processor: time of one thread; wall; or a GPU's events",
    "colour_accuracy": "share of clips in which a reader finds the caption's colour",
    "condition": "what is another than where the round was judged",
    "consistency": "cosine of neighbouring frames by a CLIP model; only where evaluation.clip names one",
    "cosine": "of input and output; 1: the unit changes nothing",
    "cosine_std": "standard deviation of the cosine over tokens, frames and prompts",
    "count": "how many units are deleted",
    "criterion": "the measure that orders the units",
    "depth": "level of the UNet: 0 has the largest maps",
    "distance_after": "of validation clips to the teacher's, after training",
    "distance_before": "of validation clips to the teacher's, before training",
    "endpoint": "loss: where sampling ends, beside the teacher",
    "excess": "by how much FVD across seeds is above the null (0: no further off than other seeds)",
    "feature": "loss: features inside the UNet, beside the teacher's",
    "features": "pooled features of the extractor",
    "fvd": "Frechet Video Distance to the original's clips of the same prompts and seeds; 0: the same",
    "fvd_cross": "FVD to the original's clips of other seeds: compare it with null",
    "gradient_norm": "length of the gradient before clipping",
    "granularity": "what goes: a whole temporal_transformer (motion block), a transformer_block in it, or an attention",
    "influence": "weighted change of the model's output without the unit; low: matters little",
    "kendall": "Kendall's tau of the two orders: 1 the same, 0 unrelated, -1 reversed",
    "kvd": "Kernel Video Distance, a second distance; can be below 0",
    "labels": "what a reader sees on the clip, where the extractor has one",
    "latency": "of a UNet call that deleting the block saves (the file holds seconds)",
    "least_probability": "chance, over resampled clips, to be among the least important third",
    "macs": "multiply-accumulates of a UNet call",
    "motion": "how much movement differs from the original's: 0 the same, 1 as a frozen clip",
    "motion_accuracy": "share of clips in which a reader finds the caption's motion",
    "motion_norm": "motion modules normalise over the whole clip, or frame by frame",
    "movement": "how much clips move, as a share of the original's",
    "null": "FVD between two seed sets of the original: what chance alone gives",
    "null_kvd": "size of KVD by chance",
    "null_motion": "the null of motion",
    "null_paired": "the null of paired",
    "order": "which order or control chose the units",
    "original_colour_accuracy": "colour_accuracy of the original's clips",
    "original_motion_accuracy": "motion_accuracy of the original's clips",
    "original_shape_accuracy": "shape_accuracy of the original's clips",
    "output": "loss: the UNet's output, beside the teacher's",
    "paired": "squared distance of features clip by clip, to the original's of the same prompt and seed",
    "parameters": "how many weights",
    "path": "how the trial went: all at once, or in rounds",
    "pick": "how units were picked: similar: by highest cosine; random; single",
    "position": "in the order of deletion, from 1 (in the file from 0)",
    "predicted": "damage that the blocks' interactions foretell",
    "probability": "over resampled clips",
    "probe": "name of the set of units",
    "question": "what the trial is for",
    "rank": "place by score over resampled clips (median), 1 = least important (in the file from 0)",
    "removed": "how many blocks are deleted",
    "residual_cosine": "cosine of the residual stream before and after; of attention layers alone",
    "round": "of params.yaml: a step of deletion; base: nothing deleted",
    "rounds": "how often it was timed",
    "saving": "of a UNet call (below 0: noise; the file holds seconds)",
    "saving_fraction": "saving as a share of the call",
    "score": "what the order is by, the criterion named below; low goes first",
    "seconds": "of a UNet call, median (the file holds seconds)",
    "seeds": "a or b: two sets of seeds for the same prompts",
    "set": "of clips: `all` is their summary",
    "shape_accuracy": "share of clips in which a reader finds the caption's shape",
    "share": "macs as a share of what FVD has to draw with",
    "sharpness": "of frames, as a share of the original's",
    "similarity": "cosine of the block's input and output; 1: it changes nothing",
    "similarity_attention": "similarity of its attention layers, mean",
    "similarity_block": "similarity of its transformer block",
    "spearman": "Spearman's rank correlation of the two orders",
    "split": "which part of the prompts: rank, select and report decide, choose and show",
    "step": "of the sampler, the first is 0",
    "task": "loss: against the noise of real clips",
    "tied": "these clips cannot tell it from a neighbour in the order",
    "timestep": "of the diffusion: high is noise",
    "total": "loss: the weighted terms added up",
    "unit": "what can be deleted: a block, or a part of one",
    "units": "which units are deleted",
    "value": "mean inner product of the two changes; of a unit with itself: its squared change",
    "variance": "of final latents along the changes of this step",
    "variant": "what is removed: a block, a set, a round, or nothing (full)",
    "videos": "clips behind the figures",
    "weight": "how much a change at this step counts in the final latent",
}
_ONLY = {
    ("pairs", "probability"): "chance, over resampled clips, that block matters less than other",
    ("ranks", "probability"): "chance, over resampled clips, that the block has this rank",
    ("ranks", "rank"): "1 = least important (in the file from 0)",
    ("criteria", "macs"): "of all UNet calls that asking it takes",
    ("correlations", "first"): "a measure of the ranking, as fvd or similarity",
    ("confirm", "videos"): "clips, each drawn thrice",
    ("videos", "removed"): "units that were gone while it was drawn",
    ("study", "address"): "the hash that the trial is kept under",
    ("units", "parameters"): "weights of the unit",
    ("ranking", "macs"): "multiply-accumulates of a UNet call that go with the block",
    ("ranking", "parameters"): "weights that go with the block",
    ("criteria", "units"): "how many units are ordered",
    ("latency", "predicted"): "saving that the times of single blocks add up to (the file holds seconds)",
    ("similarity", "count"): "numbers behind it",
    ("features", "motion"): "descriptor of movement: differences of frames, on a grid",
    ("losses", "step"): "of training",
}
_PARTS = {"low": "lower end of the interval of", "high": "upper end of the interval of", "weighted": "weight times"}
PLAIN = {
    "index", "prompt", "negative", "seed", "seed_a", "seed_b", "frames", "height", "width", "video", "clip", "caption",
    "source", "channels", "latents", "shape", "values", "other", "second", "first", "learning_rate", "steps",
    "scheduler", "by_prompt", "parameters_removed", "macs_removed",
}  # fmt: skip
"""Columns that say it by their names."""

META = {
    "criterion": "what score, and so the order, is by (ranking.criterion of params.yaml)",
    "extractor": "whose features the distances are in: compare with no other extractor's",
    "extractor_official": "only where it is true are these FVDs as in papers",
    "null_fvd": "FVD between two seed sets of the original: what chance alone gives",
    "null_kvd": "size of KVD by chance",
    "null_motion": "the null of motion",
    "null_paired": "the null of paired",
    "prompts": "it is a mean over so many",
    "split": "which part of the prompts was drawn",
    "split_half_tau": "Kendall's tau between the orders by two halves of the clips: 1 the same order",
    "videos": "clips a block",
    "videos_to_settle": "clips a block for an order that repeats, about (tau 0.8 between halves; -1: not known)",
}
"""What stands beside a table and tells a reader something; the rest are hashes and counts for machines."""

_FIRST = {
    "ranking": ("block", "fvd", "rank", "tied", "latency", "macs", "parameters", "similarity", "influence", "score"),
    "evaluation": ("round", "arm", "split", "removed", "fvd", "fvd_cross", "null", "excess", "motion_accuracy", "macs"),
    "confirm": ("round", "set", "motion_norm", "videos", "fvd_cross", "null", "excess", "fvd", "motion_accuracy"),
    "study": ("question", "order", "path", "arm", "removed", "fvd", "excess", "null", "predicted", "motion_accuracy"),
    "carry_over": ("condition", "frames", "steps", "scheduler", "removed", "fvd", "excess", "null", "motion_accuracy"),
    "probes": ("probe", "count", "fvd", "paired", "motion", "macs", "parameters"),
    "units": ("unit", "block", "granularity", "depth", "parameters", "macs"),
    "profile": ("variant", "seconds", "saving", "saving_fraction", "macs", "parameters"),
    "latency": ("variant", "blocks", "seconds", "saving", "predicted", "saving_fraction", "macs", "parameters"),
    "influence": ("unit", "step", "change", "weight", "variance"),
    "interaction": ("unit", "other", "step", "value", "weight"),
}


_MS = {
    *((artefact, column) for artefact in ("profile", "latency") for column in ("seconds", "saving")),
    ("latency", "predicted"),
    ("ranking", "latency"),
}
"""Columns of seconds that eyes read in ms, as on the report page."""
_FROM_ONE = {("ranking", "rank"), ("ranking", "position"), ("ranks", "rank")}
"""Columns that count from 0 and are shown from 1, as on the report page."""


def heading(artefact: str, column: str) -> str:
    """What stands above a column: its name, and the unit where it is shown in another than the file's.

    >>> heading("ranking", "latency")
    'latency (ms)'
    """
    return f"{column} (ms)" if (artefact, _middle(column)) in _MS else column


def for_eyes(artefact: str, column: str, value: Any) -> Any:
    """A value of a column as it is shown: times in ms, places from 1; None and all else as they are.

    >>> for_eyes("ranking", "rank", 0), for_eyes("latency", "saving", 0.25)
    (1, 250.0)
    """
    if value is None:
        return None
    of = artefact, _middle(column)
    return value * 1e3 if of in _MS else value + 1 if of in _FROM_ONE else value


def _middle(column: str) -> str:
    """Of an end of an interval, the column of its figure."""
    return column.removesuffix("_low").removesuffix("_high")


def meaning(artefact: str, column: str) -> str:
    """What a column holds, in a line; empty where its name says it.

    >>> meaning("ranking", "tied")
    'these clips cannot tell it from a neighbour in the order'
    """
    if column in PLAIN and (artefact, column) not in _ONLY:
        return ""
    of, _, part = column.rpartition("_")
    return _ONLY.get((artefact, column)) or _GENERAL.get(column) or (f"{_PARTS[part]} {of}" if part in _PARTS else "")


def by_weight(artefact: str, columns: Iterable[str]) -> list[str]:
    """Columns, those first that a reader needs most; the rest as they stand in the table."""
    columns = list(columns)
    first = [name for name in _FIRST.get(artefact, ()) if name in columns]
    return [*first, *(name for name in columns if name not in first)]
