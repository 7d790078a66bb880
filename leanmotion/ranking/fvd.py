"""Frechet and kernel video distances: features of two sets of videos in, one number out.

Pure functions on arrays `[videos, features]`, in float64, without I/O. Which network made the features, how
many videos and frames there were and which `ddof` was used travel with the number elsewhere
(`extractors.describe`).

Sources: Unterthiner et al., "Towards Accurate Generative Models of Video" (2018): FVD (Section 3, Equation
2), KVD; Dowson and Landau (1982): the closed form for Gaussians; Binkowski et al. (2018): the cubic kernel;
Gretton et al. (2012), "A Kernel Two-Sample Test": its unbiased estimate; Chong and Forsyth (2020):
extrapolation in 1/N.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.linalg.blas import dtrmm  # pyright: ignore[reportAttributeAccessIssue]
from scipy.special import ndtri, stdtrit

from leanmotion.errors import LeanmotionError

Features = Float[np.ndarray, "videos features"]
# Counts and widths may differ from the first set's as far as types go: a function says which it takes.
Others = Float[np.ndarray, "others widths"]

# The eigenvalue route is taken only where its error bound stays below this share of the two traces.
_EIGENVALUE_TOLERANCE = 5e-10


@dataclass(frozen=True)
class Estimate:
    """A value with its interval `low <= value <= high`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The moments of one set of features, kept as a factor: `rows.T @ rows` is the covariance.

    Made by `gaussian`; the QR factor is computed at its first use and then shared by all distances to this
    set.
    """

    mean: Float[np.ndarray, " features"]
    rows: Float[np.ndarray, "videos features"]  # centred, divided by sqrt(videos - ddof)
    ddof: int

    @cached_property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.einsum("nd,nd->", self.rows, self.rows))

    @cached_property
    def factor(self) -> Float[np.ndarray, "rank features"]:
        """The smallest `F` at hand with `F.T @ F` the covariance: by QR where videos outnumber features."""
        videos, features = self.rows.shape
        return self.rows if videos <= features else np.asarray(np.linalg.qr(self.rows, mode="r"))


def gaussian(features: Features, *, ddof: int = 1) -> Gaussian:
    """Mean and covariance factor of `[videos, features]`; `ddof` as in `numpy.cov`.

    Raises:
        LeanmotionError: not a matrix, fewer than two videos, or a value that is not finite.
    """
    x = checked(features)
    if ddof not in (0, 1):
        raise LeanmotionError(f"ddof is {ddof}: choose 1 (official FVD) or 0 (StyleGAN-V, cd-fvd)")
    mean = x.mean(axis=0)
    return Gaussian(mean, (x - mean) / np.sqrt(len(x) - ddof), ddof)


def frechet_distance(x: Features | Gaussian, y: Others | Gaussian, *, ddof: int = 1) -> float:
    """FVD: `|mu_x - mu_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2)`, in squared feature units.

    Unterthiner et al. (2018), Equation 2, between two sets of features [videos, features].

    The last trace is the nuclear norm of `F_x F_y^T`, `F` the covariance factors: right for singular
    covariances (fewer videos than features), real by construction, no epsilon on the diagonal. With full
    rank on both sides it is computed from the eigenvalues of `F_x S_y F_x^T` if a bound on the rounding
    allows it. Rounding can leave about -5e-10 of the traces on equal sets; nothing is clipped.

    Args:
        x: features, or their `gaussian`.
        y: likewise; as many features, any number of videos.
        ddof: as in `numpy.cov`: 1 is the official estimate, 0 that of StyleGAN-V and cd-fvd; a `gaussian`
            has its own.

    Raises:
        LeanmotionError: different widths or `ddof`s, fewer than two videos, or a value that is not finite.
    """
    a = x if isinstance(x, Gaussian) else gaussian(x, ddof=_ddof_of(y, ddof))
    b = y if isinstance(y, Gaussian) else gaussian(y, ddof=a.ddof)
    if a.mean.shape != b.mean.shape:
        raise LeanmotionError(f"features are {a.mean.size} and {b.mean.size} wide: use one extractor for both sets")
    if a.ddof != b.ddof:
        raise LeanmotionError(f"one set was taken with ddof={a.ddof}, the other with ddof={b.ddof}: use one for both")
    shift = a.mean - b.mean
    return float(shift @ shift) + a.trace + b.trace - 2.0 * _trace_of_root(a, b)


def frechet_distances(
    reference: Features | Gaussian, variants: Mapping[str, Others], *, ddof: int = 1
) -> dict[str, float]:
    """FVD of every variant to one reference, whose factor is computed once. Errors as `frechet_distance`."""
    base = reference if isinstance(reference, Gaussian) else gaussian(reference, ddof=ddof)
    return {name: frechet_distance(base, features) for name, features in variants.items()}


def _ddof_of(other: Others | Gaussian, ddof: int) -> int:
    return other.ddof if isinstance(other, Gaussian) else ddof


def _trace_of_root(a: Gaussian, b: Gaussian) -> float:
    """`tr (S_a S_b)^(1/2)`: roots of the eigenvalues of `S_a S_b`, the singular values of `F_a F_b^T`."""
    features = a.mean.size
    if min(len(a.rows), len(b.rows)) > features:
        # Here the factor is triangular; BLAS takes its transpose for a lower triangle in Fortran's order, uncopied.
        lower = a.factor.T
        middle = dtrmm(1.0, lower, (b.rows.T @ b.rows).T, lower=1, trans_a=1, overwrite_b=1)
        middle = dtrmm(1.0, lower, middle, side=1, lower=1, overwrite_b=1)
        values = np.linalg.eigvalsh(middle)
        # An eigenvalue is off by about eps * lambda_max (Weyl), so its root by that over 2 sqrt(lambda).
        if values[0] > 0:
            error = np.finfo(np.float64).eps * values[-1] * np.sum(0.5 / np.sqrt(values))
            if error <= _EIGENVALUE_TOLERANCE * (a.trace + b.trace):
                return float(np.sqrt(values).sum())
    return float(np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum())


def kernel_distance(x: Features, y: Others, *, paired: bool = False) -> float:
    """KVD: the unbiased squared maximum mean discrepancy under the kernel `(x.y / features + 1)^3`.

    Gretton et al. (2012), Equation 3. `paired=True` leaves the pairs `(x_i, y_i)` out (Equation 4), which
    keeps the estimate unbiased where both rows come from the same prompt and seed: it is then exactly 0 on
    equal sets. An unbiased estimate of a small distance can be negative.

    Raises:
        LeanmotionError: different widths, `paired` with different counts, fewer than two videos, or not
        finite.
    """
    x, y = checked_pair(x, y, same_count=paired)
    n, m = len(x), len(y)
    within_x, within_y, across = cubic_kernel(x, x), cubic_kernel(y, y), cubic_kernel(x, y)
    mean_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    mean_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    if paired:
        return float(mean_x + mean_y - 2.0 * (across.sum() - np.trace(across)) / (n * (n - 1)))
    return float(mean_x + mean_y - 2.0 * across.mean())


def cubic_kernel(
    x: Float[np.ndarray, "first features"], y: Float[np.ndarray, "second features"]
) -> Float[np.ndarray, "first second"]:
    """`(x.y / features + 1)^3` between all rows."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def paired_distance(x: Features, y: Others, *, interval: float = 0.9) -> Estimate:
    """Mean over same-seed pairs of `|x_i - y_i|^2`, with Student's t interval of a mean over pairs.

    Never below FVD with `ddof=0`: the pairing is one coupling, the Frechet distance of the Gaussians the
    least of all.

    Raises:
        LeanmotionError: different shapes, fewer than two videos, or a value that is not finite.
    """
    x, y = checked_pair(x, y, same_count=True)
    return mean_estimate(np.square(x - y).sum(axis=1), interval)


def motion_measure(
    reference: Float[np.ndarray, "clips cells"],
    variant: Others,
    *,
    interval: float = 0.9,
) -> Estimate:
    """How far the motion of same-seed clips moved, from their descriptors (`features.motion`).

    `sum |reference - variant| / sum |reference|` over clips and cells: 0 for the same motion in the same
    places at the same times, exactly 1 for a frozen variant, above 1 for motion in other places or flicker.
    The interval is normal, by the delta method for a ratio of means over clips.

    Raises:
        LeanmotionError: different shapes, fewer than two clips, not finite, or a reference that does not
        move at all.
    """
    moved, motion = motion_terms(reference, variant)
    value = float(moved.mean() / motion.mean())
    residual = (moved - value * motion) / motion.mean()
    half = float(ndtri(0.5 + interval / 2) * residual.std(ddof=1) / np.sqrt(len(residual)))
    return Estimate(value, value - half, value + half)


def motion_terms(
    reference: Float[np.ndarray, "clips cells"], variant: Others
) -> tuple[Float[np.ndarray, " clips"], Float[np.ndarray, " clips"]]:
    """Per clip the two sums of `motion_measure`: how far the motion moved, and the reference's motion."""
    x, y = checked_pair(reference, variant, same_count=True)
    moved, motion = np.abs(x - y).sum(axis=1), np.abs(x).sum(axis=1)
    if not motion.any():
        raise LeanmotionError("the reference clips do not move: no motion measure can be relative to them")
    return moved, motion


def frechet_distance_infinity(
    x: Features, y: Others, *, sizes: int = 6, draws: int = 8, seed: int = 0, ddof: int = 1
) -> float:
    """FVD extrapolated to infinitely many videos: the intercept of a line in 1/N (Chong and Forsyth).

    `sizes` subset sizes, evenly spaced in 1/N from the number of features to all videos, are each drawn
    `draws` times without replacement, row `i` of both sets together (same-seed pairs stay pairs). Below as
    many videos as features the bias is no line in 1/N, so subsets are never smaller, and two such subsets
    must fit.

    Raises:
        LeanmotionError: fewer videos than twice the features; different shapes; a value that is not finite.
    """
    x, y = checked_pair(x, y, same_count=True)
    videos, features = x.shape
    if videos < 2 * features or sizes < 2:
        raise LeanmotionError(
            f"{videos} videos of {features} features: extrapolation takes {2 * features} or more, in 2 sizes"
        )
    least = max(features, 2)
    counts = np.rint(1.0 / np.linspace(1.0 / least, 1.0 / videos, sizes)).astype(int)
    generator = np.random.default_rng(seed)
    means = []
    for count in counts:
        subsets = (
            [slice(None)] if count == videos else [generator.choice(videos, count, replace=False) for _ in range(draws)]
        )
        means.append(np.mean([frechet_distance(x[rows], y[rows], ddof=ddof) for rows in subsets]))
    _, intercept = np.polyfit(1.0 / counts, means, 1)
    return float(intercept)


def checked(features: Features) -> Float[np.ndarray, "videos features"]:
    """The features as float64. Raises LeanmotionError unless finite `[videos >= 2, features >= 1]`."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise LeanmotionError(f"features have shape {x.shape}: expected [videos, features]")
    if len(x) < 2:
        raise LeanmotionError(f"a distance between distributions takes 2 videos or more, not {len(x)}: raise the count")
    if not np.isfinite(x).all():
        rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
        raise LeanmotionError(f"features of {len(rows)} video(s) are not finite, the first is row {rows[0]}")
    return x


def checked_pair(
    x: Features, y: Others, *, same_count: bool
) -> tuple[Float[np.ndarray, "videos features"], Float[np.ndarray, "others features"]]:
    """Both as float64. Raises LeanmotionError as `checked`, and on different widths (if asked, counts)."""
    x, y = checked(x), checked(y)
    if x.shape[1] != y.shape[1]:
        raise LeanmotionError(f"features are {x.shape[1]} and {y.shape[1]} wide: use one extractor for both sets")
    if same_count and len(x) != len(y):
        raise LeanmotionError(f"{len(x)} and {len(y)} videos: pairs take the same prompts and seeds on both sides")
    return x, y


def mean_estimate(values: Float[np.ndarray, " pairs"], interval: float) -> Estimate:
    """A mean over clips, with Student's t interval."""
    mean = float(values.mean())
    half = float(stdtrit(len(values) - 1, 0.5 + interval / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)
