"""Half-samples of same-seed videos: distances of many variants on many subsets at once.

One index set is drawn at a time and shared by the reference and all variants, so that what the videos have
in common cancels in comparisons between variants. Everything is linear algebra on `videos x videos` inner
products (or on `features x features` factors where a subset outnumbers the features), batched over the
subsets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from leanmotion.errors import LeanmotionError
from leanmotion.ranking.fvd import checked, checked_pair, cubic_kernel, motion_terms

Rows = Int[np.ndarray, "subsets rows"]
Descriptors = tuple[Float[np.ndarray, "videos cells"], Mapping[str, Float[np.ndarray, "videos cells"]]]

DISTANCES = ("fvd", "kvd", "paired", "motion")


def complementary_halves(videos: int, resamples: int, *, size: int | None = None, seed: int = 0) -> Rows:
    """Disjoint pairs of subsets without replacement: rows `2 i` and `2 i + 1` share no video.

    Args:
        videos: how many there are, at least 4.
        resamples: how many subsets; an odd number is rounded up to whole pairs.
        size: videos per subset, at least 2 and at most half of them; half of them by default (of an odd number
            one video, another each time, sits out).
        seed: of the generator.

    Returns:
        Indices `[subsets, size]`, sorted within a subset.

    Raises:
        LeanmotionError: too few videos, or no resamples.
    """
    size = videos // 2 if size is None else size
    if videos < 4 or not 2 <= size <= videos // 2:
        raise LeanmotionError(f"{videos} videos make no two disjoint subsets of {size}: 4 videos or more are needed")
    if resamples < 2:
        raise LeanmotionError(f"ranking.resamples is {resamples}: 2 or more are needed")
    generator = np.random.default_rng(seed)
    pairs = [generator.permutation(videos)[: 2 * size].reshape(2, size) for _ in range((resamples + 1) // 2)]
    return np.sort(np.concatenate(pairs), axis=1)


def subset_distances(
    reference: Float[np.ndarray, "videos features"],
    variants: Mapping[str, Float[np.ndarray, "videos features"]],
    rows: Rows,
    *,
    motion: Descriptors | None = None,
    ddof: int = 1,
) -> dict[str, Float[np.ndarray, "subsets variants"]]:
    """Distances of every variant to the reference on every subset.

    Args:
        reference: features of the reference's videos.
        variants: name -> features of the same prompts and seeds, in the same order.
        rows: subsets, from `complementary_halves`.
        motion: motion descriptors of the reference and of every variant; adds the entry `motion`.
        ddof: of the covariances.

    Returns:
        `fvd` (from eigenvalues of a Gram matrix: within about 1e-11 of the traces where features outnumber the
        subset's videos, else 1e-7), `kvd` (pairs left out),
        `paired` and perhaps `motion`, as in `leanmotion.ranking.fvd`; `[subsets, variants]`, variants in the order
        given.

    Raises:
        LeanmotionError: shapes that differ, or values that are not finite.
    """
    x = checked(reference)
    pairs = [checked_pair(x, features, same_count=True)[1] for features in variants.values()]
    member = np.zeros((len(rows), len(x)))
    np.put_along_axis(member, rows, 1.0, axis=1)
    count = rows.shape[1]
    # A shift common to both sides changes no distance but KVD's kernel, and keeps inner products small.
    centre = x.mean(axis=0)
    frechet = _FrechetOnSubsets(x - centre, rows, member, ddof)
    within_x = cubic_kernel(x, x)
    out: dict[str, list[np.ndarray]] = {"fvd": [], "kvd": [], "paired": []}
    for y in pairs:
        out["fvd"].append(frechet.distance(y - centre))
        across = cubic_kernel(x, y)
        statistic = within_x + cubic_kernel(y, y) - across - across.T
        np.fill_diagonal(statistic, 0.0)
        out["kvd"].append(np.einsum("bi,bi->b", member @ statistic, member) / (count * (count - 1)))
        out["paired"].append(member @ np.square(x - y).sum(axis=1) / count)
    if motion is not None:
        terms = [motion_terms(motion[0], motion[1][name]) for name in variants]
        out["motion"] = [_ratio(member @ moved, member @ still) for moved, still in terms]
    return {name: np.stack(columns, axis=1) for name, columns in out.items()}


def kernel_null(
    reference: Float[np.ndarray, "videos features"], null: Float[np.ndarray, "videos features"], rows: Rows
) -> float:
    """How large KVD is by chance: its root mean square over subsets of two sets that differ by nothing else.

    KVD is unbiased, so that a single value of it between such sets is of either sign, and by luck near 0.

    Args:
        reference: features of the original's videos.
        null: of the same prompts under other seeds, in the same order; pairs are left out.
        rows: subsets, from `complementary_halves`.

    Raises:
        LeanmotionError: as `subset_distances`.
    """
    return float(np.sqrt(np.square(subset_distances(reference, {"null": null}, rows)["kvd"]).mean()))


class _FrechetOnSubsets:
    """FVD of subsets of `y` to the same subsets of `x`; what only `x` decides is computed once."""

    def __init__(self, x: np.ndarray, rows: Rows, member: np.ndarray, ddof: int):
        self.x, self.rows, self.member = x, rows, member
        self.count = rows.shape[1]
        self.scale = 1.0 / (self.count - ddof)
        self.tall = self.count > x.shape[1]
        self.squares = np.einsum("nd,nd->n", x, x)
        self.means = member @ x / self.count
        # R of a centred subset, one at a time: memory stays at one subset.
        self.factors = [self._factor(i) for i in range(len(rows))] if self.tall else []

    def distance(self, y: np.ndarray) -> Float[np.ndarray, " subsets"]:
        means = self.member @ y / self.count
        shift = np.square(means - self.means).sum(axis=1)
        return (
            shift
            + self._trace(self.squares, self.means)
            + self._trace(np.einsum("nd,nd->n", y, y), means)
            - 2.0 * self.scale * (self._root_tall(y, means) if self.tall else self._root_wide(y))
        )

    def _trace(self, squares: np.ndarray, means: np.ndarray) -> np.ndarray:
        return self.scale * (self.member @ squares - self.count * np.square(means).sum(axis=1))

    def _factor(self, subset: int) -> np.ndarray:
        return np.asarray(np.linalg.qr(self.x[self.rows[subset]] - self.means[subset], mode="r"))

    def _root_wide(self, y: np.ndarray) -> np.ndarray:
        """Nuclear norm of `X Y^T`: centring rows and columns of the inner products centres both sets."""
        inner = (self.x @ y.T)[self.rows[:, :, None], self.rows[:, None, :]]
        inner -= inner.mean(axis=1, keepdims=True)
        inner -= inner.mean(axis=2, keepdims=True)
        return _nuclear_norms(inner, self.count - 1)

    def _root_tall(self, y: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Nuclear norm of `R_x Y^T`."""
        norms = [
            _nuclear_norms((factor @ (y[rows] - mean).T)[None])
            for factor, rows, mean in zip(self.factors, self.rows, means, strict=True)
        ]
        return np.concatenate(norms)


def _nuclear_norms(
    matrices: Float[np.ndarray, "subsets rows columns"], rank: int | None = None
) -> Float[np.ndarray, " subsets"]:
    """Sum of singular values, from the eigenvalues of `A A^T`: one near zero is off by about 1e-8 of the largest.

    `rank`: known to be no more. Centred rows leave one singular value exactly zero, and what rounding makes of it would
    be larger than the distance of a block that hardly matters, another on each processor.
    """
    values = np.linalg.eigvalsh(matrices @ np.swapaxes(matrices, -1, -2))
    return np.sqrt(np.maximum(values if rank is None else values[..., -rank:], 0.0)).sum(axis=-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`; a subset whose reference does not move counts as moved by all of it."""
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)


def recentre(
    full: Float[np.ndarray, " variants"], on_subsets: Float[np.ndarray, "subsets variants"]
) -> Float[np.ndarray, "subsets variants"]:
    """Draws around the value on all videos, with the spread that this value has over fresh prompts and seeds.

    A half-sample of N without replacement needs no scaling: a mean over n of N has variance `(1 - n/N)
    s^2/n`, which at `n = N/2` is the variance `s^2/N` of the mean over all N, and distances are smooth in
    such means to first order. What differs is the centre, for FVD is biased up as n falls; so deviations
    from the half-samples' mean are put on the full value. They are put as a factor, `full * exp(deviation /
    full)`: to first order the same, and a distance stays positive and gets the longer upper tail that it
    has. Values that are negative (KVD) or zero up to rounding take the deviation as it is. Coverage is
    measured in `benchmarks/coverage.py`.
    """
    deviation = on_subsets - on_subsets.mean(axis=0)
    positive = (full > 1e-9 * np.abs(full).max(initial=0.0)) & (on_subsets > 0).all(axis=0)
    safe = np.where(positive, full, 1.0)
    # Past a factor e^20 first order says nothing any more, and exp would overflow.
    factors = np.exp(np.clip(deviation / safe, -20.0, 20.0))
    return np.where(positive, safe * factors, full + deviation)


def interval_of(
    full: Float[np.ndarray, " variants"], draws: Float[np.ndarray, "subsets variants"], interval: float
) -> tuple[Float[np.ndarray, " variants"], Float[np.ndarray, " variants"]]:
    """Equal-tailed interval of recentred draws; holds the full value."""
    low, high = np.quantile(draws, [0.5 - interval / 2, 0.5 + interval / 2], axis=0)
    return np.minimum(low, full), np.maximum(high, full)
