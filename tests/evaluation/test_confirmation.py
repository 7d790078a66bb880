"""The chosen round anew, on hand-made features: what is exact, how often the interval is right, and how wide it is."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluation import feature_set, take

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.confirmation import confirm, dealt, estimate
from leanmotion.evaluation.evaluation import ORIGINAL, Arm, evaluate_split
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.pipeline.settings import Evaluation
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.ranking.fvd import frechet_distance

SETTINGS = Evaluation(resamples=48)
CAPTIONS, EACH, WIDTH = 16, 1, 16
CLIPS = CAPTIONS * EACH
"""As `take` names them: each of the 16 held-out captions as often as the others."""


class World:
    """Features far apart by caption, as clips are, and near within one; a student off by `harm` clip by clip."""

    def __init__(self, harm: float = 0.7) -> None:
        generator = np.random.default_rng(7)
        self.centres = 5 * generator.normal(size=(CAPTIONS, WIDTH))
        self.spread = generator.uniform(0.3, 1.7, size=(CAPTIONS, 1))
        self.harm = harm

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A fresh set: the original under two sets of seeds, and the student under the second."""
        of = np.arange(CLIPS) % CAPTIONS

        def clips() -> np.ndarray:
            return self.centres[of] + self.spread[of] * generator.normal(size=(CLIPS, WIDTH))

        first, second = clips(), clips()
        return first, second, second + self.harm * generator.normal(size=second.shape)

    def excess(self, sets: int, generator: np.random.Generator) -> float:
        """Of the mean distances over many fresh sets."""
        drawn = [self.draw(generator) for _ in range(sets)]
        null, cross = (np.mean([frechet_distance(d[0], d[i]) for d in drawn]) for i in (1, 2))
        return float(cross / null - 1)


class Drawn(FeatureSet):
    """Feature tables that never were files."""

    def __init__(self, sets: list[tuple[np.ndarray, ...]]) -> None:
        self.splits = [f"confirm/{i}" for i in range(1, len(sets) + 1)]
        self._takes = {
            (name, split, seeds): take(name, seeds, clips, split=split)
            for split, one in zip(self.splits, sets, strict=True)
            for (name, seeds), clips in zip(((ORIGINAL, "a"), (ORIGINAL, "b"), ("distilled", "b")), one, strict=True)
        }


def excess(world: World, sets: int, generator: np.random.Generator) -> tuple[float, float, float]:
    """Lower end, value and upper end, of fresh sets."""
    clips = [np.concatenate(one) for one in zip(*(world.draw(generator) for _ in range(sets)), strict=True)]
    low, value, high = estimate(clips, np.tile(np.arange(CLIPS) % CAPTIONS, sets).astype(str), sets, SETTINGS)[1][:, 3]
    return low, value, high


def test_figures_by_their_definition(tmp_path: Path) -> None:
    sets = [World().draw(np.random.default_rng(i)) for i in range(3)]
    drawn = Drawn(sets)
    first, *single = rows = confirm(drawn, drawn.splits, SETTINGS)
    # Kept in float32: features of size 10 to 1e-6 of it.
    close = partial(pytest.approx, rel=1e-4)
    null, cross = (np.array([frechet_distance(one[0], one[i]) for one in sets]) for i in (1, 2))
    assert [row["set"] for row in rows] == ["all", *drawn.splits]
    assert [row["excess"] for row in single] == close(list(cross / null - 1))
    # Of all together, over many ways to make the sets.
    clips = [np.concatenate(one) for one in zip(*sets, strict=True)]
    made = dealt(np.tile(np.arange(CLIPS), 3).astype(str), 3, SETTINGS.resamples, seed=SETTINGS.seed)
    mean = [
        np.mean([frechet_distance(clips[i][row], clips[j][row]) for row in made]) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert [first[name] for name in ("null", "fvd_cross", "fvd")] == close(mean)
    assert first["excess"] == close(mean[1] / mean[0] - 1)
    assert (first["videos"], first["captions"]) == (3 * CLIPS, CAPTIONS) and single[0]["videos"] == CLIPS
    for name in ("fvd_cross", "excess", "fvd"):
        assert first[f"{name}_low"] < first[name] < first[f"{name}_high"]
    assert first["motion_accuracy"] is None and first["original_motion_accuracy"] is None
    write_table(tmp_path / "confirm.parquet", "confirm", [{"round": "r1", "removed": 1, **row} for row in rows])
    assert read_frame(tmp_path / "confirm.parquet", "confirm")["excess_low"].notna().tolist() == [True, *[False] * 3]
    assert rows == confirm(drawn, drawn.splits, SETTINGS)


def test_the_original_itself_has_no_excess() -> None:
    assert excess(World(harm=0.0), 2, np.random.default_rng(0)) == (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def trials() -> dict[int, np.ndarray]:
    """Sets -> what many runs on fresh ones said: lower ends, values, upper ends."""
    generator, world = np.random.default_rng(3), World()
    return {
        sets: np.array([excess(world, sets, generator) for _ in range(count)]).T for sets, count in ((4, 80), (16, 16))
    }


def width(found: np.ndarray) -> float:
    return float(np.median(found[2] - found[0]))


def test_the_interval_holds_the_truth_as_often_as_it_says(trials: dict[int, np.ndarray]) -> None:
    truth = World().excess(1000, np.random.default_rng(11))
    low, value, high = trials[4]
    held = np.mean((low <= truth) & (truth <= high))
    # 90% are asked for. Of 80 trials the share has a deviation of 3.4%: three of them below, and never always.
    assert 0.8 <= held < 1.0
    # Means come before the ratio: what bias is left is small beside the interval.
    assert abs(value.mean() - truth) < 0.25 * width(trials[4])


def test_four_times_the_sets_halve_the_interval(trials: dict[int, np.ndarray]) -> None:
    # 2 by the root of the number of sets; up to 4 near the null, where distances are of second order, and a mean over
    # all ways to make the sets varies as their number. Medians of so few trials are known to about a tenth.
    assert 1.8 < width(trials[4]) / width(trials[16]) < 3.5


def test_the_interval_is_at_most_half_as_wide_as_that_of_one_set(trials: dict[int, np.ndarray]) -> None:
    """That of `evaluate`, by half-samples."""
    generator, found = np.random.default_rng(5), []
    for _ in range(12):
        arms = [Arm("base", "original", ORIGINAL, 0, 1, 1), Arm("r1", "distilled", "distilled", 1, 1, 1)]
        row = evaluate_split(Drawn([World().draw(generator)]), arms[0], arms[1:], "confirm/1", SETTINGS)[1]
        found.append([row["excess_low"], row["excess"], row["excess_high"]])
    assert width(trials[4]) <= width(np.array(found).T) / 2


@given(st.integers(2, 5), st.lists(st.integers(1, 7), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_a_deal_is_even(sets: int, times: list[int], seed: int) -> None:
    """Every clip once a deal; of each caption no set has more than one clip more than another, but for laying ends."""
    times[0] += -sum(times) % sets
    captions = [f"caption {i}" for i, count in enumerate(times) for _ in range(count)]
    rows = dealt(captions, sets, 2, seed=seed)
    assert rows.shape == (2 * sets, len(captions) // sets)
    for deal in (rows[:sets], rows[sets:]):
        assert sorted(deal.ravel()) == list(range(len(captions)))
        for caption in set(captions):
            counts = [Counter(captions[i] for i in row)[caption] for row in deal]
            assert max(counts) - min(counts) <= 1


def test_sets_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    good = World().draw(np.random.default_rng(0))
    with pytest.raises(LeanmotionError, match="two of one size are needed"):
        confirm(Drawn([good]), ["confirm/1"], SETTINGS)
    shorter = tuple(clips[:-1] for clips in good)
    with pytest.raises(LeanmotionError, match="two of one size are needed"):
        confirm(Drawn([good, shorter]), ["confirm/1", "confirm/2"], SETTINGS)
    names = ((ORIGINAL, "a"), (ORIGINAL, "b"), ("distilled", "b"))
    takes = [
        take(name, seeds, clips, split=f"confirm/{i}")
        for i in (1, 2)
        for (name, seeds), clips in zip(names, good, strict=True)
    ]
    takes[-1]["seed"] += 1
    with pytest.raises(LeanmotionError, match="the student's clips, confirm/2: videos differ in seed"):
        confirm(feature_set(tmp_path, *takes), ["confirm/1", "confirm/2"], SETTINGS)
    still = good[0], good[0], good[2]
    with pytest.raises(LeanmotionError, match=r"are the same clips: see prompts\.seed"):
        confirm(Drawn([still, still]), ["confirm/1", "confirm/2"], SETTINGS)
