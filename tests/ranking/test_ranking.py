"""The ranking: batched distances, intervals that cover, orders that settle, ties by name."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from leanmotion.errors import LeanmotionError
from leanmotion.ranking.agreement import kendall_tau, overlap, settle, split_half_tau, tied_runs
from leanmotion.ranking.fvd import frechet_distance, frechet_distances, kernel_distance, motion_measure, paired_distance
from leanmotion.ranking.ranking import CRITERIA, costliest_overlap, null_distances, rank_blocks
from leanmotion.ranking.resampling import complementary_halves, interval_of, kernel_null, recentre, subset_distances

# The benchmark is a script beside the package: its generator and its trial are the ones tested here.
BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))
Generator, coverage = BENCHMARK["Generator"], BENCHMARK["coverage"]
WORLD = Generator(features=16)


def sample(videos=24, seed=0):
    return WORLD.sample(videos, np.random.default_rng(seed))


def test_halves_are_disjoint_pairs():
    rows = complementary_halves(9, 5, seed=1)
    assert rows.shape == (6, 4)
    for first, second in zip(rows[0::2], rows[1::2], strict=True):
        assert len({*first, *second}) == 8
    assert complementary_halves(20, 4, size=3).shape == (4, 3)
    with pytest.raises(LeanmotionError, match="4 videos or more"):
        complementary_halves(3, 10)
    with pytest.raises(LeanmotionError, match="resamples"):
        complementary_halves(8, 1)


@pytest.mark.parametrize("videos", [24, 64])  # halves below and above the 16 features: both routes
def test_subset_distances_are_those_of_the_subsets(videos):
    reference, variants = sample(videos)
    motion = (np.abs(reference), {name: np.abs(y) for name, y in variants.items()})
    rows = complementary_halves(videos, 4)
    got = subset_distances(reference, variants, rows, motion=motion)
    # The Gram matrix's eigenvalues are off by eps of the largest, s^2: a root r of them by eps s^2 / 2 r. That is
    # 1e-12 s for the least root of full rank (here r > 1e-4 s), and 1.5e-8 s at worst, where r is nearly zero.
    bound = (1e-11 if videos == 24 else 1e-7) * np.trace(np.cov(reference, rowvar=False)) * 16
    for b, subset in enumerate(rows):
        for v, (name, y) in enumerate(variants.items()):
            x_part, y_part = reference[subset], y[subset]
            assert got["fvd"][b, v] == pytest.approx(frechet_distance(x_part, y_part), abs=bound)
            assert got["kvd"][b, v] == pytest.approx(kernel_distance(x_part, y_part, paired=True), abs=1e-9)
            assert got["paired"][b, v] == pytest.approx(paired_distance(x_part, y_part).value)
            expected = motion_measure(motion[0][subset], motion[1][name][subset]).value
            assert got["motion"][b, v] == pytest.approx(expected)


def test_the_distance_of_a_block_that_hardly_matters_is_no_rounding_noise():
    """A distance of 1e-9 of the features' spread: noise of 1e-8 of it would decide the order of such blocks."""
    x, _ = Generator(features=64).sample(48, np.random.default_rng(0))
    y = x + 3e-6 * np.random.default_rng(1).normal(size=x.shape)
    rows = complementary_halves(48, 10)
    got = subset_distances(x, {"y": y}, rows)["fvd"][:, 0]
    expected = [frechet_distance(x[subset], y[subset]) for subset in rows]
    assert max(expected) < 1e-9 * np.trace(np.cov(x, rowvar=False))
    # Its singular values are off by some eps of the largest: 1e-14 of the spread, a hundred-thousandth of the distance.
    assert got == pytest.approx(expected, rel=1e-3)


def test_the_null_of_kvd_is_its_root_mean_square_over_half_samples():
    (x, _), (y, _) = sample(24), sample(24, seed=1)
    rows = complementary_halves(24, 8)
    over = [kernel_distance(x[subset], y[subset], paired=True) for subset in rows]
    # Of either sign, where a single value may be zero by luck.
    assert min(over) < 0 < max(over)
    assert kernel_null(x, y, rows) == pytest.approx(np.sqrt(np.mean(np.square(over))))
    assert kernel_null(x, x, rows) == 0.0


def test_half_samples_of_a_mean_have_its_variance():
    """The scaling is 1: half-samples without replacement vary as the mean over all videos does, `s^2 / N`."""
    values = np.random.default_rng(0).normal(size=40)
    means = values[complementary_halves(40, 4000)].mean(axis=1)
    # The variance of 2000 independent pairs is known to sqrt(2 / 2000) = 3%; four of these.
    assert means.var() == pytest.approx(values.var(ddof=1) / 40, rel=0.13)


def test_recentred_draws_keep_centre_and_sign():
    on_halves = np.random.default_rng(0).lognormal(size=(200, 2)) * [1.0, 1e-3]
    full = np.array([0.5, 4e-4])
    draws = recentre(full, on_halves)
    assert (draws > 0).all()
    low, high = interval_of(full, draws, 0.9)
    assert (low <= full).all()
    assert (full <= high).all()
    deviation = on_halves - on_halves.mean(axis=0)
    np.testing.assert_allclose(recentre(-full, on_halves), -full + deviation)  # KVD may be negative
    assert np.isfinite(recentre(np.array([1.0, 0.0]), on_halves)).all()  # a block that changes nothing


def test_a_naive_paired_bootstrap_is_biased_up():
    """With replacement, fewer distinct videos: FVD grows as if N had fallen. Half-samples are put back on the value."""
    reference, variants = WORLD.sample(64, np.random.default_rng(0))
    full = frechet_distances(reference, variants)
    generator = np.random.default_rng(1)
    resamples = [generator.integers(0, 64, 64) for _ in range(60)]
    ratios = [
        np.mean([frechet_distance(reference[rows], y[rows]) for rows in resamples]) / full[name]
        for name, y in variants.items()
    ]
    wide = Generator(features=64)
    x, others = wide.sample(64, np.random.default_rng(0))
    wide_ratios = [
        np.mean([frechet_distance(x[rows], y[rows]) for rows in resamples[:20]]) / frechet_distance(x, y)
        for y in list(others.values())[::5]
    ]
    assert np.mean(ratios) > 1.1
    assert np.mean(wide_ratios) > 1.1
    names = np.array(list(full.values()))
    draws = recentre(names, subset_distances(reference, variants, complementary_halves(64, 60))["fvd"])
    assert np.mean(draws.mean(axis=0) / names) == pytest.approx(1, abs=0.05)


def test_intervals_cover_the_mean_at_that_count():
    """The short form of `benchmarks/coverage.py`.

    40 trials of 21 variants, which are dependent within a trial: with the worst case of full dependence the standard
    error of the mean is sqrt(0.9 * 0.1 / 40) = 4.7%. Three of them around 90% +- 5 on the low side leave 71%.
    """
    result = coverage(Generator(features=16), videos=48, trials=40, truth_trials=150, resamples=80, seed=5)
    assert result.mean() >= 0.76
    assert result.min() >= 0.6


def test_tau_against_the_true_order_grows_with_videos():
    truth = np.arange(21.0)
    taus = []
    for videos in (8, 24, 96):
        found = []
        for seed in range(6):
            reference, variants = sample(videos, seed)
            found.append(kendall_tau(truth, np.array(list(frechet_distances(reference, variants).values()))))
        taus.append(np.mean(found))
    assert taus[0] < taus[1] < taus[2]
    assert taus[2] > 0.85


def test_rank_blocks():
    reference, variants = sample(32)
    names = list(variants)
    columns = {
        "similarity": {name: 1 - i / 100 for i, name in enumerate(names)},
        "macs": dict.fromkeys(names, 2.0),
        "latency": {name: float(i + 1) for i, name in enumerate(names)},
    }
    motion = (np.abs(reference), {name: np.abs(y) for name, y in variants.items()})
    on_prompts = np.arange(21.0)[::-1, None] * np.linspace(0.5, 1.5, 8)
    kept = {}
    for criterion in CRITERIA:
        kept[criterion] = rank_blocks(
            reference, variants, criterion=criterion, columns=columns, sampled={"influence": on_prompts}, motion=motion,
            null=sample(20, 9)[0], resamples=20, seed=3,
        )  # fmt: skip
        assert sorted(kept[criterion].order) == sorted(names)
        scores = [row["score"] for row in kept[criterion].rows]
        assert scores == sorted(scores)
    assert kept["similarity"].order == names
    assert kept["influence"].order == names[::-1] and kept["influence"].settling["split_half_tau"] == 1.0
    assert kept["fvd"].halves[0] == pytest.approx(kept["fvd"].settling["split_half_tau"])
    assert kept["fvd_per_mac"].order == kept["fvd"].order
    found = kept["fvd"]
    full = frechet_distances(reference, variants)
    for row in found.rows:
        assert row["fvd"] == full[row["block"]]
        for name in ("fvd", "kvd", "paired", "motion"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert 0 <= row["rank_low"] <= row["rank"] <= row["rank_high"] < 21
    np.testing.assert_allclose(found.rank_probability.sum(axis=1), 1)
    np.testing.assert_allclose(found.before_probability + found.before_probability.T, 1)
    assert sum(row["least_probability"] for row in found.rows) == pytest.approx(7)
    assert {block for run in found.ties for block in run} == {row["block"] for row in found.rows if row["tied"]}
    assert found.null == null_distances(reference, sample(20, 9)[0])
    pairs = {(row["first"], row["second"]): row for row in found.correlations}
    similarity = pairs["fvd", "similarity"]
    assert similarity["kendall"] > 0.5  # orientated: low similarity counts as important
    assert similarity["kendall_low"] <= similarity["kendall"] <= similarity["kendall_high"]
    assert costliest_overlap(found, columns["latency"], 7) == overlap(names[-7:], found.order[:7])
    again = rank_blocks(reference, variants, columns=columns, resamples=20, seed=3)
    assert again.order == found.order
    assert [row["fvd_low"] for row in again.rows] == [row["fvd_low"] for row in found.rows]


def test_equal_blocks_keep_their_order_and_are_ties():
    reference, variants = sample(16)
    same = {name: variants["block_05"].copy() for name in ("z", "a", "m")}
    found = rank_blocks(reference, same, resamples=20)
    assert found.order == ["z", "a", "m"]
    assert found.ties == [["z", "a", "m"]]


def test_wrong_settings_are_one_clear_line():
    reference, variants = sample(16)
    for arguments, words in [
        ({"criterion": "fdv"}, "did you mean 'fvd'"),
        ({"criterion": "similarity"}, "needs 'similarity'"),
        ({"criterion": "fvd_per_mac", "columns": {"macs": dict.fromkeys(variants, 0.0)}}, "not positive"),
        ({"columns": {"macs": {"block_00": 1.0}}}, "macs of block 'block_01' is missing"),
        ({"interval": 1.5}, "interval"),
    ]:
        with pytest.raises(LeanmotionError, match=words):
            rank_blocks(reference, variants, **arguments)


def test_agreement_of_orders():
    up = np.arange(6.0)
    assert kendall_tau(up, up) == 1
    assert kendall_tau(up, -up) == -1
    assert kendall_tau(up, np.zeros(6)) == 0
    assert split_half_tau(np.stack([up, up, up, -up])) == 0
    assert tied_runs(list("abcde"), [True, True, False, False]) == [["a", "b", "c"]]
    assert overlap("abcd", "cdef") == 0.5


def test_settling_finds_the_number_of_videos():
    """Scores of normal truth and noise of variance 1/n: the model holds, and halves agree as predicted."""
    generator = np.random.default_rng(0)
    truth = 0.25 * generator.normal(size=400)
    noise = generator.normal(size=(64, 400))

    def scores_on(rows):
        return truth + noise[rows].mean(axis=1)

    found = settle(64, scores_on, resamples=20, settled=0.8, seed=0)
    # k = 1 / 0.25^2 = 16 and rho = sin(0.4 pi) = 0.951: 2 * 16 * 0.951 / 0.049 = 621 videos. 400 blocks give tau
    # to about 3%, which near such a rho moves the answer by a third.
    assert 400 < found["videos_to_settle"] < 900
    assert found["tau_8"] < found["tau_16"] < found["tau_32"] == found["split_half_tau"] < found["predicted_tau"]
