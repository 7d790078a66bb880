"""Kill -9 at random moments of a round: every resumed run has to end with the bytes of an uninterrupted one.

Run in the project's folder after `dvc repro`: `python benchmarks/kills.py --round r14`. The real `stages/distill.py`
runs in a folder and with a scratch store of its own, once undisturbed, then as often as asked: killed after a random
part of that time, run again to the end, and all files of the student compared. Exits with 1 if any differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

STAGE = Path(__file__).parents[1] / "stages/distill.py"


class Round:
    """One round in a folder of its own, with shorter settings."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        params["distillation"] |= {"steps": arguments.steps, "checkpoint_every": arguments.checkpoint_every}
        params["distillation"] |= {"inputs": arguments.inputs}
        params["rounds"][arguments.round].pop("steps", None)
        folder.mkdir()
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        data = arguments.data
        order = arguments.order or data / f"order/{arguments.round}.json"
        self.command = [
            sys.executable, str(STAGE), "--round", arguments.round, "--previous", str(data / "students/base"),
            "--order", str(order), "--out", str(folder / "student"), "--params", str(folder / "params.yaml"),
            "--teacher", str(data / "teacher.json"), "--clips", str(data / "clips.parquet"),
        ]  # fmt: skip
        self.env = {**os.environ, "LEANMOTION_SCRATCH": str(folder / "scratch")}

    def start(self) -> subprocess.Popen[bytes]:
        """The stage as a process."""
        return subprocess.Popen(
            self.command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def finish(self) -> float:
        """Run to the end; seconds."""
        began = time.perf_counter()
        process = self.start()
        said = process.communicate()[1].decode()
        if process.returncode:
            raise SystemExit(f"distill failed: {said[-2000:]}")
        return time.perf_counter() - began

    def kill_after(self, seconds: float) -> str:
        """Kill it; what it had got to, or an empty string where it was done before."""
        process = self.start()
        time.sleep(seconds)
        if process.poll() is not None:
            return ""
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (self.folder / "student/student.json").exists():
            return "all written"
        kept = sorted((self.folder / "scratch").rglob("checkpoint-*.pt"))
        steps = len(torch.load(kept[0], weights_only=True)["rows"]) if kept else 0
        return f"checkpoint of step {steps}" if steps else "no checkpoint"

    def digest(self) -> str:
        """SHA-256 over all files of the student."""
        total = hashlib.sha256()
        for path in sorted((self.folder / "student").rglob("*")):
            if path.is_file():
                total.update(f"{path.relative_to(self.folder)}|".encode() + path.read_bytes())
        return total.hexdigest()


def main() -> None:
    """Print a row a kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round", required=True, help="whose blocks are deleted, from the teacher")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="of training")
    parser.add_argument("--checkpoint-every", type=int, default=3)
    parser.add_argument("--inputs", default="clips", choices=["clips", "teacher", "student"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the flow's folder")
    parser.add_argument("--order", type=Path, help="a deletion list; else the round's own in data/order")
    arguments = parser.parse_args()
    moments, different = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        whole = Round(Path(place) / "whole", arguments)
        seconds = whole.finish()
        print(f"uninterrupted: {seconds:.0f} s, {arguments.steps} steps, inputs {arguments.inputs}")
        print("| kill | after, s | left behind | same bytes |\n|---|---|---|---|")
        for number in range(1, arguments.kills + 1):
            this = Round(Path(place) / f"{number}", arguments)
            after = moments.uniform(0.05, 1) * seconds
            while not (left := this.kill_after(after)):
                # Done before the kill, as a machine's pace varies: earlier, from the start.
                this, after = Round(Path(place) / f"{number}-{after:.3f}", arguments), after * 0.7
            this.finish()
            same = this.digest() == whole.digest()
            different += not same
            print(f"| {number} | {after:.1f} | {left} | {'yes' if same else 'NO'} |", flush=True)
    print(f"{arguments.kills - different} of {arguments.kills} ended with the bytes of the uninterrupted run.")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
