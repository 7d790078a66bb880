"""Where the time of a run goes, by kind: drawing, training, timing, start-up, decoding, the rest.

    python benchmarks/time_by_kind.py              # `dvc repro`: in a fresh clone, from an empty cache
    python benchmarks/time_by_kind.py --force rank # or any other words for it

In every stage a thread looks, `_LOOKS` times a second, at what the main thread is doing, and counts the time since it
last looked for the outermost of the functions in `KINDS` that is under way: clips that distillation draws to judge
itself are training, clips that a stage draws ahead for another are drawing. Start-up is all from the process's birth to
its command, imports and the loading and hashing of weights wherever they happen. What is done beside the main thread
(encoding, writing) takes no time of its own. Times go to a temporary file: no result of a stage holds any.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

START, REST = "start-up", "the rest"
KINDS = {
    "leanmotion.model.sampler:Sampler.__call__": "drawing",
    "leanmotion.distillation.training:distil": "training",
    "leanmotion.cost.in_call:in_call_rows": "timing",
    "leanmotion.cost.timing:measure_latency": "timing",
    "leanmotion.videos.codec:decode": "decoding",
    "leanmotion.videos.codec:decode_all": "decoding",
    "leanmotion.model.teacher:fingerprint": START,
    "leanmotion.model.teacher:load_base": START,
    "leanmotion.model.teacher:load_pipeline": START,
    "leanmotion.model.student:Student.verify": START,
    "leanmotion.model.pruned_adapter:load_pruned_pipeline": START,
    "leanmotion.features.extractors:load_extractor": START,
    "importlib._bootstrap:_find_and_load": START,
}
"""Function -> what time inside it is counted for."""
COLUMNS = ("drawing", "training", "timing", START, "decoding", REST)
COMMAND = "leanmotion.pipeline.stage:guarded.<locals>.stage"
"""What a stage's process does once it has started."""

_LOOKS = 20
_TIMES = "LEANMOTION_BENCHMARK_TIMES"


def watch() -> None:
    """Count the time of this process, where it is a stage's, and add it to the file that the environment names."""
    if len(sys.orig_argv) < 2 or Path(sys.orig_argv[1]).parent.name != "stages":
        return
    import psutil

    main, seconds = threading.main_thread().ident, defaultdict[str, float](float)
    born = last = psutil.Process().create_time()
    ended = threading.Event()

    def count() -> None:
        nonlocal last
        now = time.time()
        seconds[kind_of(sys._current_frames().get(main or 0))] += now - last
        last = now

    def look() -> None:
        while not ended.wait(1 / _LOOKS):
            count()

    def end() -> None:
        ended.set()
        thread.join()
        count()
        line = {"stage": os.environ.get("DVC_STAGE", "?"), "wall": last - born, **seconds}
        with Path(os.environ[_TIMES]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    atexit.register(end)


def kind_of(frame: FrameType | None) -> str:
    """What a thread is doing, by its innermost frame."""
    stack: list[str] = []
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        stack.append(f"{module}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    known = [KINDS[name] for name in reversed(stack) if name in KINDS]
    return known[0] if known else REST if COMMAND in stack else START


def run(words: Sequence[str]) -> tuple[list[dict], float]:
    """`dvc repro` with these words: what its stages counted, and its seconds."""
    with tempfile.TemporaryDirectory(prefix="leanmotion-times-") as folder:
        # Every interpreter imports this module when it starts.
        seam = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r})['watch']()\n"
        (Path(folder) / "sitecustomize.py").write_text(seam, encoding="utf-8")
        times = Path(folder) / "times"
        times.touch()
        path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, _TIMES: str(times)}
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "dvc", "repro", *words], env=environment).returncode
        took = time.monotonic() - start
        if code:
            raise SystemExit(code)
        return [json.loads(line) for line in times.read_text(encoding="utf-8").splitlines()], took


def table(lines: Sequence[dict], took: float) -> str:
    """Seconds by family of stages and by kind, in Markdown; what is left of the run is DVC's own."""
    families: dict[str, dict[str, float]] = {}
    for line in lines:
        row = families.setdefault(line["stage"].partition("@")[0], defaultdict(float))
        row["runs"] += 1
        for kind in COLUMNS:
            row[kind] += line.get(kind, 0.0)
    outside = took - sum(line["wall"] for line in lines)
    families["DVC, and processes' ends"] = {REST: outside}
    total = {kind: sum(row.get(kind, 0.0) for row in families.values()) for kind in (*COLUMNS, "runs")}
    families["**all**"] = total
    shown = [
        [name, f"{row.get('runs', 0):.0f}", *(f"{row.get(kind, 0):.1f}" for kind in COLUMNS),
         f"{sum(row.get(kind, 0) for kind in COLUMNS):.1f}"]
        for name, row in families.items()
    ]  # fmt: skip
    head = ["stage, s", "runs", *COLUMNS, "all"]
    lead = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, lead, *shown))


def main() -> None:
    """Run, and print the table."""
    lines, took = run(sys.argv[1:])
    print(table(lines, took))
    worked = sum(line.get(kind, 0.0) for line in lines for kind in ("drawing", "training", "timing"))
    print(f"\n{took:.0f} s in all, {took - worked:.0f} s beside drawing, training and timing")


if __name__ == "__main__":
    main()
