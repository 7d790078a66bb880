"""Does training suffer beside other work by more than its share: alone, beside a busy loop, beside another training.

    python benchmarks/contention.py

What is timed is `distillation_profile.py` with its own materials: no `dvc repro` is needed. Exits with 1 where a
training takes over twice as long beside a busy loop as alone, or over three times as long beside another training. Fair
shares of two cores would be 1.5 and 2 times. The ratios mean something on idle cores alone: the last column tells.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import psutil

PROFILE = Path(__file__).with_name("distillation_profile.py")
SETTINGS = {"alone": (1, 0, 1), "beside a busy loop": (1, 1, 2), "beside another training": (2, 0, 3)}
"""Trainings and busy loops side by side, and how many times as long as alone a training may take."""


class Training:
    """A training in a process of its own, ready to start."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROFILE), "--wait", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{PROFILE.name} did not start: run it by itself to see why")

    def start(self) -> None:
        """Let it train."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def seconds(self) -> float:
        """Of its training, at its end."""
        assert self.process.stdout is not None
        said = self.process.stdout.read()
        found = re.search(r"^\| training \| ([\d.]+)", said, re.MULTILINE)
        if found is None:
            raise SystemExit(f"{PROFILE.name} ended without a figure:\n{said}")
        return float(found[1])


def cores_in_use(seconds: float = 2.0) -> float:
    """How many cores all processes together keep busy, at the moment."""
    times = psutil.cpu_times_percent(interval=seconds)
    return (100 - times.idle - getattr(times, "iowait", 0.0)) / 100 * (os.cpu_count() or 1)


def measured(arguments: list[str], trainings: int, loops: int) -> tuple[list[float], float]:
    """Seconds of each of several trainings side by side, and how many cores others kept busy before they started."""
    ready = [Training(arguments) for _ in range(trainings)]
    others = cores_in_use()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        for training in ready:
            training.start()
        return [training.seconds() for training in ready], others
    finally:
        for process in (*busy, *(training.process for training in ready)):
            process.kill()
            process.wait()


def main() -> None:
    """Print a row a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of each training")
    parser.add_argument("--repeats", type=int, default=1, help="of all three, in turn; medians are compared")
    arguments = parser.parse_args()
    took: dict[str, list[float]] = {name: [] for name in SETTINGS}
    others: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.repeats):
        for name, (trainings, loops, _) in SETTINGS.items():
            seconds, cores = measured(["--steps", str(arguments.steps)], trainings, loops)
            took[name].append(max(seconds))
            others[name].append(cores)
    print(f"{arguments.steps} steps, {os.cpu_count()} cores; of two trainings the slower one counts")
    print("| training | seconds | times alone | at most | cores that others used before |\n|---|---|---|---|---|")
    over = []
    for name, (_, _, most) in SETTINGS.items():
        times = median(took[name]) / median(took["alone"])
        print(f"| {name} | {median(took[name]):.1f} | {times:.2f} | {most:.0f} | {max(others[name]):.2f} |")
        if times > most:
            over.append(name)
    if over:
        raise SystemExit(f"over what is asked for: {', '.join(over)}")


if __name__ == "__main__":
    main()
