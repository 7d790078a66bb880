"""FVD of 21 variants against one reference: ours, and as the field computes it with `scipy.linalg.sqrtm`.

Both start from features and end at 21 numbers, in one process with the same threads, turn by turn; the least of the
repeats counts. Run: `python benchmarks/fvd.py`, or with `--quick`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.linalg

from leanmotion.ranking.fvd import frechet_distances

VARIANTS = 21
FEATURES = 400


def as_the_field_does(reference: np.ndarray, variants: dict[str, np.ndarray]) -> dict[str, float]:
    """Moments of both sets and `sqrtm` of the product, once for every pair: StyleGAN-V's `compute_fvd`."""
    out = {}
    for name, features in variants.items():
        mean_x, mean_y = reference.mean(axis=0), features.mean(axis=0)
        cov_x, cov_y = np.cov(reference, rowvar=False), np.cov(features, rowvar=False)
        root = scipy.linalg.sqrtm(cov_x @ cov_y)
        value = np.square(mean_x - mean_y).sum() + np.trace(cov_x + cov_y - 2 * root)
        out[name] = float(np.real(value))
    return out


def synthetic(videos: int, variants: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features with standard deviations from 1 to 0.05 on rotated axes; variants mix in noise of their own."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(FEATURES, FEATURES)))[0]
    mixing = np.geomspace(1, 0.05, FEATURES)[:, None] * rotation

    def rows() -> np.ndarray:
        return generator.normal(size=(videos, FEATURES)) @ mixing

    reference = rows()
    return reference, {f"v{i}": reference + (0.4 + 0.05 * i) * (rows() + 0.1) for i in range(variants)}


def main() -> None:
    """Print a row for each number of videos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 variants, one repeat")
    parser.add_argument("--cpu-time", action="store_true", help="the process's own time: for a busy machine, 1 thread")
    arguments = parser.parse_args()
    quick, clock = arguments.quick, time.process_time if arguments.cpu_time else time.perf_counter
    variants, repeats = (5, 1) if quick else (VARIANTS, 5)
    print(f"{variants} variants, {FEATURES} features, least of {repeats} repeats")
    print("| N | sqrtm, s | ours, s | ratio | largest relative difference |")
    print("|---|---|---|---|---|")
    for videos in (256, 2048):
        data = synthetic(videos, variants)
        seconds: dict[str, list[float]] = {"sqrtm": [], "ours": []}
        values = {}
        for _ in range(repeats):
            for name, method in (("sqrtm", as_the_field_does), ("ours", frechet_distances)):
                start = clock()
                values[name] = np.array(list(method(*data).values()))
                seconds[name].append(clock() - start)
        theirs, ours = min(seconds["sqrtm"]), min(seconds["ours"])
        off = np.max(np.abs(values["ours"] / values["sqrtm"] - 1))
        print(f"| {videos} | {theirs:.3f} | {ours:.3f} | {theirs / ours:.1f} | {off:.1e} |", flush=True)


if __name__ == "__main__":
    main()
