"""Orders of blocks and how far they agree: Kendall's tau, split halves, ties, overlaps, videos that settle an order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from leanmotion.ranking.resampling import Rows, complementary_halves

_LEAST_SUBSET = 4


def kendall_tau(first: Float[np.ndarray, "*sets blocks"], second: Float[np.ndarray, "*sets blocks"]) -> np.ndarray:
    """Kendall's tau-b of scores, over the last axis; 1 where both sides are all equal, 0 where one side is.

    Kendall (1945), "The treatment of ties in ranking problems".
    """
    one, two = _signs(first), _signs(second)
    untied = np.sqrt((one**2).sum(axis=(-1, -2)) * (two**2).sum(axis=(-1, -2)))
    agreement = (one * two).sum(axis=(-1, -2))
    equal = np.asarray(((one == 0) & (two == 0)).all(axis=(-1, -2)), np.float64)
    return np.where(untied > 0, agreement / np.where(untied > 0, untied, 1.0), equal)


def _signs(scores: np.ndarray) -> np.ndarray:
    return np.sign(scores[..., :, None] - scores[..., None, :])


def ranks_of(scores: Float[np.ndarray, "sets blocks"]) -> Int[np.ndarray, "sets blocks"]:
    """Rank of each block in each set, 0 = lowest score; equal scores keep the block order."""
    return np.argsort(np.argsort(scores, axis=-1, kind="stable"), axis=-1, kind="stable")


def before_probability(scores: Float[np.ndarray, "sets blocks"]) -> Float[np.ndarray, "blocks others"]:
    """Share of sets in which the row's block scores below the column's; equal scores count half."""
    return (1.0 - _signs(scores).mean(axis=0)) / 2.0


def tied_neighbours(
    order: Sequence[int], before: Float[np.ndarray, "blocks others"], interval: float
) -> Bool[np.ndarray, " gaps"]:
    """For each two neighbours of the order: cannot be told apart at the one-sided level of `interval`."""
    return np.asarray([before[i, j] < 0.5 + interval / 2 for i, j in pairwise(order)], bool)


def tied_runs(order: Sequence[str], tied: Iterable[bool]) -> list[list[str]]:
    """Runs of two or more blocks, each tied with the next."""
    runs = [[order[0]]] if order else []
    for block, with_last in zip(order[1:], tied, strict=True):
        if with_last:
            runs[-1].append(block)
        else:
            runs.append([block])
    return [run for run in runs if len(run) > 1]


def overlap(first: Iterable[str], second: Iterable[str]) -> float:
    """Share of `first` that is also in `second`: 0 to 1 (0 for an empty list)."""
    first, second = set(first), set(second)
    return len(first & second) / len(first) if first else 0.0


def split_half_tau(scores: Float[np.ndarray, "subsets blocks"]) -> float:
    """Mean tau of rows `2 i` and `2 i + 1`, scores on disjoint subsets of `complementary_halves`."""
    return float(kendall_tau(scores[0::2], scores[1::2]).mean())


def settle(
    videos: int,
    scores_on: Callable[[Rows], Float[np.ndarray, "subsets blocks"]],
    *,
    resamples: int,
    settled: float,
    seed: int,
) -> dict[str, float]:
    """How the agreement of two disjoint sets of videos grows with their size, and where it reaches `settled`.

    Tau is measured between disjoint subsets of N/2, N/4 and N/8 videos (no fewer than 4). With the noise of
    a score falling as 1/n against a fixed spread of true scores, two sets of n correlate by `rho = n / (n +
    k)` (Spearman and Brown, 1910), and for normal scores `tau = 2/pi asin(rho)` (Greiner's relation); `k` is
    the mean over sizes. Scores of blocks are hardly normal, so `predicted` values are estimates of an order
    of magnitude.

    Returns:
        `tau_<n>` for every size, `split_half_tau` (the one of N/2), `predicted_tau` between two sets of N,
        and `videos_to_settle`: videos whose halves would agree by `settled` (-1 where no size agreed beyond
        chance).
    """
    sizes = sorted({max(videos // part, _LEAST_SUBSET) for part in (2, 4, 8)} & set(range(videos // 2 + 1)))
    sizes = sizes or [videos // 2]
    out: dict[str, float] = {}
    for size in sizes:
        rows = complementary_halves(videos, resamples, size=size, seed=seed)
        out[f"tau_{size}"] = split_half_tau(scores_on(rows))
    out["split_half_tau"] = out[f"tau_{sizes[-1]}"]
    noise = [size * (1.0 / rho - 1.0) for size in sizes if (rho := np.sin(np.pi / 2 * out[f"tau_{size}"])) > 0]
    if not noise:
        return out | {"predicted_tau": 0.0, "videos_to_settle": -1.0}
    k = float(np.mean(noise))
    target = np.sin(np.pi / 2 * settled)
    out["predicted_tau"] = float(2 / np.pi * np.arcsin(videos / (videos + k)))
    out["videos_to_settle"] = float(2 * max(np.ceil(k * target / (1.0 - target)), 2))
    return out


def correlate(
    full: Mapping[str, Float[np.ndarray, " blocks"]],
    draws: Mapping[str, Float[np.ndarray, "sets blocks"]],
    interval: float,
) -> list[dict[str, float | str]]:
    """Rank correlations between all pairs of scores of which one was resampled.

    Args:
        full: scores on all videos; all orientated so that more is more important.
        draws: recentred draws of those that were resampled, from shared subsets.
        interval: of `low` and `high`: quantiles of tau over draws, moved so that their mean is the full value
            (draws carry the noise of the estimate twice, which pulls tau to 0).

    Returns:
        Dicts with `first`, `second`, `kendall`, `kendall_low`, `kendall_high`, `spearman`.
    """
    rows: list[dict[str, float | str]] = []
    names = list(full)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if first not in draws and second not in draws:
                continue
            tau = float(kendall_tau(full[first], full[second]))
            one, two = np.broadcast_arrays(draws.get(first, full[first]), draws.get(second, full[second]))
            taus = kendall_tau(one, two)
            low, high = np.quantile(taus - taus.mean(), [0.5 - interval / 2, 0.5 + interval / 2])
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "kendall": tau,
                    "kendall_low": max(-1.0, tau + min(float(low), 0.0)),
                    "kendall_high": min(1.0, tau + max(float(high), 0.0)),
                    "spearman": _spearman(full[first], full[second]),
                }
            )
    return rows


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of mid-ranks; 0 where one side is all equal."""
    one, two = _signs(first).sum(axis=1), _signs(second).sum(axis=1)
    scale = np.sqrt((one @ one) * (two @ two))
    return float(one @ two / scale) if scale > 0 else 0.0
