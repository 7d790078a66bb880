"""FVD, KVD, paired and motion distances against closed forms, other formulas, and their own properties."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from leanmotion.errors import LeanmotionError
from leanmotion.ranking.fvd import (
    frechet_distance,
    frechet_distance_infinity,
    frechet_distances,
    gaussian,
    kernel_distance,
    motion_measure,
    paired_distance,
)

pytestmark = pytest.mark.numeric

SHAPES = st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(1, 24))
SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(max_examples=40, deadline=None)


def features(generator, videos, width, scale=1.0):
    """Correlated rows around a mean that is not 0."""
    mixing = generator.normal(size=(width, width)) * np.exp(-np.arange(width) / 4)
    return scale * (generator.normal(size=(videos, width)) @ mixing + generator.normal(size=width))


def two_sets(shape, seed):
    generator = np.random.default_rng(seed)
    videos, others, width = shape
    return features(generator, videos, width), features(generator, others, width)


def traces(*sets):
    """What rounding is relative to: the two traces and the squared norms of the rows they were taken from."""
    return sum(np.square(x).sum() for x in sets)


@given(SHAPES, SEEDS, st.sampled_from([0, 1]), st.sampled_from([1e-6, 1.0, 1e6]))
@QUICK
def test_a_set_is_at_no_distance_from_itself(shape, seed, ddof, scale):
    x = scale * two_sets(shape, seed)[0]
    # 1e-9 of the trace, as the accepted bound; singular values carry eps * sqrt(n) of the largest, far less.
    assert abs(frechet_distance(x, x, ddof=ddof)) <= 1e-9 * gaussian(x, ddof=ddof).trace


@pytest.mark.parametrize(("videos", "width"), [(16, 64), (16, 400), (400, 16), (2, 8)])
def test_zero_on_itself_with_fewer_videos_than_features(videos, width):
    x = features(np.random.default_rng(0), videos, width)
    assert abs(frechet_distance(x, x.copy())) <= 1e-9 * np.trace(np.cov(x, rowvar=False))


@given(SHAPES, SEEDS)
@QUICK
def test_symmetric_and_never_negative(shape, seed):
    x, y = two_sets(shape, seed)
    bound = 1e-9 * traces(x, y)
    assert abs(frechet_distance(x, y) - frechet_distance(y, x)) <= bound
    assert frechet_distance(x, y) >= -bound


@given(SHAPES, SEEDS)
@QUICK
def test_shift_and_rotation_change_nothing(shape, seed):
    x, y = two_sets(shape, seed)
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(shape[2], shape[2])))[0]
    shift = generator.normal(size=shape[2])
    moved = frechet_distance(x @ rotation + shift, y @ rotation + shift)
    assert abs(moved - frechet_distance(x, y)) <= 1e-9 * traces(x, y, shift[None])


@given(SEEDS, st.integers(1, 12), st.sampled_from([0, 1]))
@QUICK
def test_closed_form_where_covariances_commute(seed, width, ddof):
    """Equal eigenvectors: `|mu|^2 + sum (a_i - b_i)^2` for standard deviations a and b."""
    generator = np.random.default_rng(seed)
    a, b = generator.uniform(0, 2, (2, width))
    shift = generator.normal(size=width)
    # Rows +-sqrt(n) e_i scaled: the covariance with ddof=0 is the identity exactly, the mean 0.
    corners = np.sqrt(width) * np.concatenate([np.eye(width), -np.eye(width)])
    rotation = np.linalg.qr(generator.normal(size=(width, width)))[0]
    x, y = corners * a @ rotation, corners * b @ rotation + shift
    spread = np.square(a - b).sum() * (2 * width) / (2 * width - ddof)
    assert frechet_distance(x, y, ddof=ddof) == pytest.approx(shift @ shift + spread, abs=1e-9 * traces(x, y))


@given(SEEDS, st.integers(1, 10))
@QUICK
def test_agrees_with_the_square_root_of_the_product(seed, width):
    """The one of scipy is stable where both covariances have full rank and videos are plenty."""
    x, y = two_sets((20 * width, 20 * width, width), seed)
    a, b = np.cov(x, rowvar=False).reshape(width, width), np.cov(y, rowvar=False).reshape(width, width)
    root = np.real(scipy.linalg.sqrtm(a @ b))
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-9 * traces(x, y))


def test_both_routes_agree():
    """The eigenvalue route (full rank) and the nuclear norm of the rows, which is exact for any rank."""
    generator = np.random.default_rng(0)
    x, y = features(generator, 200, 12), features(generator, 200, 12)
    rows = [gaussian(z).rows for z in (x, y)]
    root = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    expected = shift + gaussian(x).trace + gaussian(y).trace - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, abs=2e-9 * (gaussian(x).trace + gaussian(y).trace))


@given(SHAPES, SEEDS)
@QUICK
def test_pairs_are_at_least_as_far_apart(shape, seed):
    """The pairing is one coupling of the two sets, and the Frechet distance a lower bound over all of them."""
    x, _ = two_sets(shape, seed)
    y = x + features(np.random.default_rng(seed + 1), *x.shape, scale=0.3)
    paired = paired_distance(x, y)
    assert frechet_distance(x, y, ddof=0) <= paired.value + 1e-9 * traces(x, y)
    assert paired.low <= paired.value <= paired.high


def test_paired_interval_covers_the_mean():
    """Student's interval of 90% for normal differences; 400 trials: 90% +- 4 standard errors of 1.5%."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        difference = generator.normal(size=(24, 8))
        estimate = paired_distance(difference, np.zeros_like(difference))
        hits += estimate.low <= 8.0 <= estimate.high
    assert 0.84 <= hits / 400 <= 0.96


def test_one_reference_for_all_variants():
    generator = np.random.default_rng(0)
    x = features(generator, 30, 8)
    variants = {name: x + features(generator, 30, 8, 0.1) for name in "abc"}
    together = frechet_distances(x, variants)
    assert list(together) == ["a", "b", "c"]
    assert all(together[name] == frechet_distance(x, y) for name, y in variants.items())
    base = gaussian(x, ddof=0)
    assert frechet_distance(base, variants["a"]) == frechet_distance(x, variants["a"], ddof=0)


@given(SHAPES, SEEDS)
@QUICK
def test_kernel_distance_is_the_u_statistic(shape, seed):
    x, y = two_sets((max(shape[0], 2), max(shape[1], 2), shape[2]), seed)
    x, y = x[:7], y[:6]

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    within_x = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    across = [k(a, b) for a in x for b in y]
    expected = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across)
    size = np.abs(within_x).max() + np.abs(within_y).max() + np.abs(across).max()
    assert kernel_distance(x, y) == pytest.approx(expected, abs=1e-10 * size)
    assert kernel_distance(x, x, paired=True) == pytest.approx(0, abs=1e-10 * size)


def test_kernel_distance_is_unbiased():
    """Equal distributions: the mean of 300 estimates within 4 standard errors of 0."""
    generator = np.random.default_rng(0)
    values = [kernel_distance(*generator.normal(size=(2, 12, 6))) for _ in range(300)]
    assert abs(np.mean(values)) <= 4 * np.std(values) / np.sqrt(300)


def test_extrapolation_takes_the_bias_off():
    """Equal distributions: FVD at N videos is far above 0, its extrapolation is nearer by an order of magnitude."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 512, 16))
    assert abs(frechet_distance_infinity(x, y)) < 0.2 * frechet_distance(x, y)
    with pytest.raises(LeanmotionError, match="32 or more"):
        frechet_distance_infinity(x[:31], y[:31])


def test_motion_measure_has_its_landmarks():
    motion = np.random.default_rng(0).uniform(0, 1, (10, 12))
    assert motion_measure(motion, motion).value == 0
    frozen = motion_measure(motion, np.zeros_like(motion))
    assert (frozen.value, frozen.low, frozen.high) == pytest.approx((1, 1, 1))
    assert motion_measure(motion, 3 * motion).value == pytest.approx(2)
    partly = motion_measure(motion, motion + np.random.default_rng(1).uniform(0, 1, (10, 12)))
    assert partly.low < partly.value < partly.high
    with pytest.raises(LeanmotionError, match="do not move"):
        motion_measure(np.zeros((4, 3)), motion[:4, :3])


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, paired_distance])
def test_wrong_features_are_one_clear_line(distance):
    x = np.random.default_rng(0).normal(size=(5, 3))
    bad = x.copy()
    bad[2, 1] = np.nan
    for first, second, words in [
        (x, bad, "1 video.* not finite.*row 2"),
        (x[:1], x[:1], "2 videos or more"),
        (x, x[:, :2], "3 and 2 wide"),
    ]:
        with pytest.raises(LeanmotionError, match=words):
            distance(first, second)
    with pytest.raises(LeanmotionError, match="5 and 4 videos"):
        paired_distance(x, x[:4])
    with pytest.raises(LeanmotionError, match="ddof"):
        frechet_distance(x, x, ddof=2)
    with pytest.raises(LeanmotionError, match="ddof"):
        frechet_distance(gaussian(x), gaussian(x, ddof=0))
