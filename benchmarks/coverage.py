"""Coverage of the ranking's intervals, and how its order comes right as videos are added.

Run: `python benchmarks/coverage.py` (200 trials), or with `--quick`.
"""

from __future__ import annotations

import argparse

import numpy as np

from leanmotion.ranking.agreement import kendall_tau
from leanmotion.ranking.fvd import frechet_distances
from leanmotion.ranking.resampling import complementary_halves, interval_of, recentre, subset_distances


class Generator:
    """Synthetic features of a reference and of variants whose true order is that of their names.

    The reference is Gaussian with standard deviations `i^-0.75` along rotated axes. Variant `v` has strength
    `s = 0.05 * 1.15^v` and pulls every video towards the mean by `s / 2`, shifts it by `s / 2` along a direction of its
    own, and adds noise of the reference's spectrum in another rotation, times `s`; shift and noise are scaled video by
    video by a log-normal factor (sigma 0.5), for some prompts suffer more than others.
    """

    def __init__(self, features: int = 64, variants: int = 21, seed: int = 0):
        generator = np.random.default_rng(seed)

        def rotation() -> np.ndarray:
            return np.linalg.qr(generator.normal(size=(features, features)))[0]

        spread = np.arange(1, features + 1)[:, None] ** -0.75
        self.mixing = rotation() * spread
        self.rotations = [rotation() for _ in range(variants)]
        shifts = generator.normal(size=(variants, features))
        self.shifts = shifts / np.linalg.norm(shifts, axis=1, keepdims=True)
        self.strengths = 0.05 * 1.15 ** np.arange(variants)

    def sample(self, videos: int, generator: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A fresh set of prompts and seeds: reference `[videos, features]`, and the same videos of each variant."""
        features = len(self.mixing)
        reference = generator.normal(size=(videos, features)) @ self.mixing
        variants = {}
        for v, s in enumerate(self.strengths):
            noise = generator.normal(size=(videos, features)) @ self.mixing @ self.rotations[v]
            uneven = np.exp(0.5 * generator.normal(size=(videos, 1)))
            variants[f"block_{v:02d}"] = reference * (1 - s / 2) + s * uneven * (self.shifts[v] / 2 + noise)
        return reference, variants


def coverage(
    world: Generator,
    *,
    videos: int,
    trials: int,
    truth_trials: int,
    resamples: int = 200,
    interval: float = 0.9,
    seed: int = 1,
) -> np.ndarray:
    """Share of trials whose interval holds the mean FVD at that many videos, `[variants]`."""
    generator = np.random.default_rng(seed)
    fresh = [list(frechet_distances(*world.sample(videos, generator)).values()) for _ in range(truth_trials)]
    truth = np.mean(fresh, axis=0)
    hits = np.zeros(len(truth))
    for trial in range(trials):
        reference, variants = world.sample(videos, generator)
        full = np.array(list(frechet_distances(reference, variants).values()))
        rows = complementary_halves(videos, resamples, seed=trial)
        draws = recentre(full, subset_distances(reference, variants, rows)["fvd"])
        low, high = interval_of(full, draws, interval)
        hits += (low <= truth) & (truth <= high)
    return hits / trials


def order_agreement(world: Generator, *, videos: int, trials: int, seed: int = 2) -> float:
    """Mean Kendall tau of the order found with that many videos against the true one."""
    generator = np.random.default_rng(seed)
    truth = np.arange(len(world.strengths), dtype=np.float64)
    taus = [
        kendall_tau(truth, np.array(list(frechet_distances(*world.sample(videos, generator)).values())))
        for _ in range(trials)
    ]
    return float(np.mean(taus))


def main() -> None:
    """Print a row for each number of videos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 trials in place of 200")
    trials = 40 if parser.parse_args().quick else 200
    print("| N | features | coverage, mean | least | most | tau against the true order |")
    print("|---|---|---|---|---|---|")
    for features, videos in ((64, 32), (64, 64), (64, 128), (16, 64)):
        world = Generator(features)
        held = coverage(world, videos=videos, trials=trials, truth_trials=2 * trials)
        tau = order_agreement(world, videos=videos, trials=trials // 4)
        row = (videos, features, *(f"{x:.1%}" for x in (held.mean(), held.min(), held.max())), f"{tau:.3f}")
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
