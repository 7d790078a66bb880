"""The order of deletion and how sure it is: distances of every block's removal, resampled.

Pure: arrays and numbers in, a `Ranking` out. A block's damage is the distance between the videos of the
original module and those of the same prompts and seeds with that block removed; orders put the least
important block first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.influence.tables import resampled_means
from leanmotion.ranking.agreement import (
    before_probability,
    correlate,
    kendall_tau,
    overlap,
    ranks_of,
    settle,
    tied_neighbours,
    tied_runs,
)
from leanmotion.ranking.fvd import frechet_distances, kernel_distance, motion_measure, paired_distance
from leanmotion.ranking.resampling import (
    Descriptors,
    Rows,
    complementary_halves,
    interval_of,
    recentre,
    subset_distances,
)

Features = Float[np.ndarray, "videos features"]
Null = Float[np.ndarray, "others features"]

CRITERIA = ("fvd", "kvd", "paired", "similarity", "influence", "fvd_per_mac", "fvd_per_latency", "random")

# What a criterion reads beside the distances, per block.
_COLUMN = {"similarity": "similarity", "influence": "influence", "fvd_per_mac": "macs", "fvd_per_latency": "latency"}


@dataclass(frozen=True, eq=False)
class Ranking:
    """What `rank_blocks` found; everything by block is in the caller's block order unless it says otherwise.

    Attributes:
        order: block ids, least important first.
        rows: one flat dict per block, in `order`: block, position (0 = least important), fvd, kvd, paired and
            motion with `_low` and `_high` each, the criterion's score, rank (median over resamples), rank_low,
            rank_high, least_probability (to be among the `least` first), tied (with a neighbour in the order),
            and the caller's columns.
        rank_probability: `[blocks, ranks]`, P(block has this rank).
        before_probability: `[blocks, blocks]`, P(row's block is less important than column's), ties half.
        ties: runs of blocks that are neighbours in the order and cannot be told apart one from the next.
        settling: how agreement grows with videos, see `agreement.settle`; and `tied_neighbours`.
        null: distances between sets of the original module's own videos (other seeds), see `null_distances`.
        correlations: one dict per pair of criteria, see `agreement.correlate`.
        halves: Kendall's tau of the FVD orders of two halves of the videos: its mean, and the interval over halvings.
    """

    criterion: str
    videos: int
    blocks: list[str]
    order: list[str]
    rows: list[dict[str, float | int | str | bool]]
    rank_probability: Float[np.ndarray, "blocks ranks"]
    before_probability: Float[np.ndarray, "blocks others"]
    ties: list[list[str]]
    settling: dict[str, float]
    null: dict[str, float] = field(default_factory=dict)
    correlations: list[dict[str, float | str]] = field(default_factory=list)
    halves: tuple[float, float, float] = (0.0, 0.0, 0.0)


def rank_blocks(
    reference: Features,
    variants: Mapping[str, Features],
    *,
    criterion: str = "fvd",
    columns: Mapping[str, Mapping[str, float]] | None = None,
    sampled: Mapping[str, Float[np.ndarray, "blocks prompts"]] | None = None,
    motion: Descriptors | None = None,
    null: Null | None = None,
    resamples: int = 200,
    interval: float = 0.9,
    least: int = 7,
    settled: float = 0.8,
    seed: int = 0,
    ddof: int = 1,
) -> Ranking:
    """Rank blocks by what their removal does to the videos: the distance to the original's, least first.

    Distances are in squared units of the features (`frechet_distance`); their intervals come from half-samples
    without replacement, the delete-half jackknife (Shao and Wu 1989; `leanmotion.resampling`).

    Args:
        reference: features of the original module's videos, [videos, features].
        variants: block id -> features with that block removed; same shape, prompts and seeds in the same order.
        criterion: one of `CRITERIA`. Scores grow with importance: a distance, a distance per saved MAC or second,
            minus the similarity (a block that changes its input little is redundant), the influence on the model's
            output, or seeded noise. Equal scores keep the order of `variants`.
        columns: name -> block -> value. `similarity`, `macs` and `latency` (what the block costs) are read by the
            criteria of these names; every column is correlated with the distances, others such as
            `similarity_attention` too.
        sampled: further columns that are means over prompts, by prompt; in the order of `variants`. `influence` is read
            by the criterion of this name. Their prompts are resampled, apart from the videos.
        motion: descriptors of the reference and of each variant, of `features.motion`.
        null: features of the original module under other seeds, any number of videos; FVD grows with fewer
            videos, so as many as `reference` make the comparable null.
        resamples: half-samples, drawn in disjoint pairs.
        interval: coverage of all intervals.
        least: for `least_probability`, the first so many of the order.
        settled: the split-half Kendall tau at which an order counts as settled.
        seed: of half-samples and of `random`.
        ddof: of the covariances.

    Raises:
        LeanmotionError: an unknown criterion, a criterion's column missing, or features that do not fit
        together.
    """
    blocks = list(variants)
    sampled = dict(sampled or {})
    columns = {name: dict(values) for name, values in (columns or {}).items()}
    columns |= {name: dict(zip(blocks, values.mean(axis=1), strict=True)) for name, values in sampled.items()}
    _check(criterion, blocks, columns, interval)
    table = {name: np.asarray([values[b] for b in blocks], np.float64) for name, values in columns.items()}
    noise = np.random.default_rng([seed, 1]).random(len(blocks))

    def on(subsets: Rows) -> dict[str, np.ndarray]:
        return subset_distances(reference, variants, subsets, motion=motion, ddof=ddof)

    def score_of(distances: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray] = table) -> np.ndarray:
        return _scores(criterion, distances, columns, noise)

    full = _full_distances(reference, variants, motion, ddof)
    on_halves = on(complementary_halves(len(reference), resamples, seed=seed))
    draws = {name: recentre(full[name], on_halves[name]) for name in full}
    sets = len(on_halves["fvd"])
    sampled_draws = {name: resampled_means(values, sets, seed).T for name, values in sampled.items()}
    score = score_of(full)
    score_draws = np.broadcast_to(score_of(draws, table | sampled_draws), (sets, len(blocks)))
    order = [int(i) for i in np.argsort(score, kind="stable")]
    before = before_probability(score_draws)
    tied = tied_neighbours(order, before, interval).tolist()
    ranks = ranks_of(score_draws)
    taus = kendall_tau(on_halves["fvd"][0::2], on_halves["fvd"][1::2])
    low, high = np.quantile(taus, [0.5 - interval / 2, 0.5 + interval / 2])

    def on_some(subsets: Rows) -> np.ndarray:
        if criterion in sampled:
            return sampled[criterion][:, subsets].mean(axis=2).T
        return np.broadcast_to(score_of(on(subsets)), (len(subsets), len(blocks)))

    samples = sampled[criterion].shape[1] if criterion in sampled else len(reference)
    settling = settle(samples, on_some, resamples=resamples, settled=settled, seed=seed)
    rows = _rows(order, blocks, full, draws, ranks, interval)
    for position, (row, i) in enumerate(zip(rows, order, strict=True)):
        row["score"] = float(score[i])
        row["least_probability"] = float((ranks[:, i] < least).mean())
        row["tied"] = any(tied[max(position - 1, 0) : position + 1])
        row |= {name: float(values[i]) for name, values in table.items() if name not in row}
    return Ranking(
        criterion=criterion,
        videos=len(reference),
        blocks=blocks,
        order=[blocks[i] for i in order],
        rows=rows,
        rank_probability=np.stack([(ranks == rank).mean(axis=0) for rank in range(len(blocks))], axis=1),
        before_probability=before,
        ties=tied_runs([blocks[i] for i in order], tied),
        settling=settling | {"tied_neighbours": float(sum(tied))},
        null={} if null is None else null_distances(reference, null, ddof=ddof),
        correlations=correlate(full | _oriented(table), draws | sampled_draws, interval),
        halves=(float(taus.mean()), float(low), float(high)),
    )


def null_distances(reference: Features, null: Null, *, ddof: int = 1) -> dict[str, float]:
    """FVD and KVD between the original module's videos and its own under other seeds: what no deletion can beat.

    FVD falls with the number of videos, so `null` needs as many as `reference` to stand beside another FVD
    of that count. Same-seed distances of a block may lie far below: they separate blocks, and compare with
    each other only.
    """
    return {
        "fvd": frechet_distances(reference, {"null": null}, ddof=ddof)["null"],
        "kvd": kernel_distance(reference, null),
        "videos": float(len(null)),
    }


def costliest_overlap(ranking: Ranking, cost: Mapping[str, float], least: int) -> float:
    """Share of the `least` costliest blocks (by latency, say) that are among the `least` first of the order."""
    costliest = sorted(ranking.blocks, key=lambda block: -cost[block])[:least]
    return overlap(costliest, ranking.order[:least])


def _full_distances(
    reference: Features, variants: Mapping[str, Features], motion: Descriptors | None, ddof: int
) -> dict[str, Float[np.ndarray, " blocks"]]:
    out = {
        "fvd": list(frechet_distances(reference, variants, ddof=ddof).values()),
        "kvd": [kernel_distance(reference, y, paired=True) for y in variants.values()],
        "paired": [paired_distance(reference, y).value for y in variants.values()],
    }
    if motion is not None:
        out["motion"] = [motion_measure(motion[0], motion[1][name]).value for name in variants]
    return {name: np.asarray(values, np.float64) for name, values in out.items()}


def _scores(
    criterion: str,
    distances: Mapping[str, np.ndarray],
    table: Mapping[str, Float[np.ndarray, " blocks"]],
    noise: Float[np.ndarray, " blocks"],
) -> np.ndarray:
    """`[..., blocks]`, more is more important; without the leading axis where the criterion is not resampled."""
    if criterion == "random":
        return noise
    if criterion == "similarity":
        return -table["similarity"]
    if criterion == "influence":
        return table["influence"]
    if criterion in _COLUMN:
        return distances["fvd"] / table[_COLUMN[criterion]]
    return distances[criterion]


def _oriented(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with more as more important: similarities change their sign."""
    return {name: -values if name.startswith("similarity") else values for name, values in table.items()}


def _rows(
    order: list[int],
    blocks: list[str],
    full: Mapping[str, np.ndarray],
    draws: Mapping[str, np.ndarray],
    ranks: Int[np.ndarray, "subsets blocks"],
    interval: float,
) -> list[dict[str, float | int | str | bool]]:
    tail = 0.5 - interval / 2
    intervals = {name: interval_of(full[name], draws[name], interval) for name in full}
    # Ranks are whole numbers: quantiles that occurred, not between two of them.
    quantiles = np.quantile(ranks, [tail, 0.5, 1.0 - tail], axis=0, method="inverted_cdf")
    rows: list[dict[str, float | int | str | bool]] = []
    for position, i in enumerate(order):
        row: dict[str, float | int | str | bool] = {"block": blocks[i], "position": position}
        for name, (low, high) in intervals.items():
            row |= {name: float(full[name][i]), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
        for name, values in zip(("rank_low", "rank", "rank_high"), quantiles, strict=True):
            row[name] = int(values[i])
        rows.append(row)
    return rows


def _check(criterion: str, blocks: list[str], columns: Mapping[str, Mapping[str, float]], interval: float) -> None:
    if criterion not in CRITERIA:
        known = ", ".join(CRITERIA)
        raise LeanmotionError(
            f"ranking.criterion is {criterion!r}: choose one of {known}{did_you_mean(criterion, CRITERIA)}"
        )
    if not blocks:
        raise LeanmotionError("there are no blocks to rank: the variants are empty")
    if not 0 < interval < 1:
        raise LeanmotionError(f"ranking.interval is {interval}: choose a coverage between 0 and 1, as 0.9")
    needed = _COLUMN.get(criterion)
    if needed is not None and needed not in columns:
        raise LeanmotionError(f"ranking.criterion {criterion!r} needs {needed!r} of every block, and none was given")
    for name, values in columns.items():
        missing = [block for block in blocks if block not in values]
        if missing:
            raise LeanmotionError(f"{name} of block {missing[0]!r} is missing")
    if needed in ("macs", "latency") and min(columns[needed][block] for block in blocks) <= 0:
        raise LeanmotionError(f"ranking.criterion {criterion!r} divides by {needed}, which is not positive everywhere")
