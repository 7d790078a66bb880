"""Killed at random moments under `dvc repro`: the next one ends with the same bytes and redoes one chunk at most.

A tracer in the clone's `stage.py`, which no stage depends on, writes a line for every unit of work and slows it
down, so that random moments fall into work and what is done twice can be counted.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import warm
from ledger import NOTES, case, sample
from micro import Clone

pytestmark = pytest.mark.timeout(3600)

MOMENTS = 30
# Stage, its outputs, the unit that its work comes in, and how many units make what is redone at most: a chunk; of
# `embed` one table (two takes at most here: the rounds' tables are not its); between two checkpoints of `distill`.
STAGES = {
    "generate@rank_a": ("data/videos/full/rank_a.parquet", "chunk", 1),
    "ablate@mid_0": ("data/videos/ablate/mid_0.parquet", "chunk", 1),
    "embed": ("data/features", "take", 4),
    "clips": ("data/clips.parquet", "group", 1),
    "distill@r2": ("data/students/r2", "step", 2),
    "export": ("data/export", "export", 1),
}
TRACER = """

def _trace_work() -> None:
    import importlib
    import time as clock

    def wrap(module, owner, name, mark):
        # Imported here: stages import what draws only when something has to be drawn.
        place = importlib.import_module(module)
        place = place if owner is None else getattr(place, owner)
        inner = getattr(place, name)

        def traced(*args, **kwargs):
            with open(os.environ["FAULTS_TRACE"], "a") as file:
                file.write(mark + "\\n")
            clock.sleep(0.2)
            return inner(*args, **kwargs)

        setattr(place, name, traced)

    wrap("leanmotion.model.sampler", "Sampler", "_batch", "chunk")
    wrap("leanmotion.features.embedding", None, "_rows", "take")
    wrap("leanmotion.clips.latents", None, "encode_clips", "group")
    wrap("leanmotion.distillation.run", "Run", "step", "step")
    wrap("leanmotion.export.export", None, "save_pruned", "export")
    with open(os.environ["FAULTS_TRACE"], "a") as file:
        file.write("main\\n")


_not_slowed = run


def run(main, **how):
    _trace_work()
    _not_slowed(main, **how)
"""


class Slowed(Clone):
    """A finished project whose work is traced and takes its time."""

    def __init__(self, micro: Path, folder: Path) -> None:
        super().__init__(shutil.copytree(micro / "clone", folder, symlinks=True))
        with (folder / "leanmotion/pipeline/stage.py").open("a") as file:
            file.write(TRACER)
        self.trace = folder.parent / "trace"
        shutil.rmtree(folder / ".scratch", ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, "FAULTS_TRACE": str(self.folder.parent / "trace")}

    def start(self, stage: str) -> "Started":
        return Started(self, stage)

    def forget(self, stage: str) -> None:
        """As before the stage ever ran: no outputs, nothing in DVC's cache or in scratch."""
        out = self.folder / STAGES[stage][0]
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        for name in (".dvc/cache", ".scratch"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.trace.write_text("")

    def marks(self, what: str) -> int:
        return self.trace.read_text().split().count(what)

    def output(self, stage: str) -> dict[str, bytes]:
        out = self.folder / STAGES[stage][0]
        files = [out] if out.is_file() else sorted(p for p in out.rglob("*") if p.is_file())
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in files}

    def names(self) -> set[str]:
        """Every file but git's, DVC's own and compiled code."""
        skipped = {".git", ".dvc", "__pycache__", ".scratch"}
        found = (p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
        return {p.as_posix() for p in found if not skipped & set(p.parts)}


class Started:
    """A `dvc repro` of one stage, in a session of its own."""

    def __init__(self, clone: Slowed, stage: str) -> None:
        self._said = (clone.folder.parent / "said").open("w+b")
        words = ["-m", "dvc", "repro", "-s", stage]
        self.process = warm.start(words, clone.folder, clone.env, self._said, self._said, apart=True)

    def stages(self) -> list[psutil.Process]:
        """The stage's processes below `dvc`."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
            return [p for p in below if any("stages/" in word for word in p.cmdline())]
        except psutil.Error:
            return []

    def strike(self, how: str) -> None:
        if how == "kill the stage":
            for process in self.stages():
                process.kill()
        elif how == "kill dvc":
            self.process.send_signal(signal.SIGKILL)
        else:
            os.killpg(self.process.pid, signal.SIGINT if how == "interrupt" else signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        code = self.process.wait()
        self._said.seek(0)
        return code, self._said.read().decode()


def _finish(clone: Slowed, stage: str) -> None:
    code, said = clone.start(stage).end()
    assert code == 0, said[-3000:]


def test_killed_anywhere_it_goes_on(micro: Path, tmp_path: Path) -> None:
    clone = Slowed(micro, tmp_path / "clone")
    wanted: dict[str, tuple[dict[str, bytes], int]] = {}
    redone: dict[str, int] = {}
    twice = 0
    for moment in sample(range(MOMENTS), 2, seed=1):
        stage = list(STAGES)[moment % len(STAGES)]
        _, unit, allowed = STAGES[stage]
        if stage not in wanted:
            inside = clone.output(stage)
            clone.forget(stage)
            _finish(clone, stage)
            wanted[stage] = clone.output(stage), clone.marks(unit)
            # The same bytes as in the first run, where other stages had run before.
            assert wanted[stage][0] == inside, f"{stage}: another process gave other bytes"
        names = clone.names()
        undisturbed, needed = wanted[stage]
        generator = random.Random(moment)
        how = generator.choice(["kill the stage", "kill dvc", "kill both", "interrupt"])
        with case("kill anywhere"):
            clone.forget(stage)
            dvc = clone.start(stage)
            # A random unit of work, and a random moment in it; now and then before the first or after the last.
            mark, count = ("main", 1) if moment % 5 == 4 else (unit, generator.randint(1, needed))
            deadline = time.monotonic() + 300
            while clone.marks(mark) < count and dvc.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(generator.uniform(0, 0.4))
            orphans = dvc.stages()
            dvc.strike(how)
            dvc.end()
            # Orphans notice within a second, and stop.
            assert not psutil.wait_procs(orphans, timeout=60)[1], "a stage lives on without its dvc"
            _finish(clone, stage)
            again = clone.marks(unit) - needed
            said = f"moment {moment}, {stage}, {how}"
            assert clone.output(stage) == undisturbed, f"{said}: other bytes"
            assert again <= allowed, f"{said}: {again} {unit}s were done twice"
            assert clone.names() - {"dvc.lock"} == names - {"dvc.lock"}, f"{said}: {clone.names() ^ names}"
            assert not list(clone.folder.rglob("*.partial")), said
            redone[stage] = max(redone.get(stage, 0), again)
            twice += again
    counts = ", ".join(f"{stage} {count} of {STAGES[stage][2]} allowed" for stage, count in redone.items())
    NOTES.append(f"Units of work done twice after a kill, at most: {counts}; {twice} in all kills together.")


def test_two_dvc_repro_at_once(micro: Path, tmp_path: Path) -> None:
    """The second waits, or says why it does not run; afterwards one run gives the same bytes."""
    clone = Slowed(micro, tmp_path / "clone")
    stage = "generate@rank_a"
    undisturbed = clone.output(stage)
    with case("same answer"):
        clone.forget(stage)
        first = clone.start(stage)
        while clone.marks("main") < 1 and first.process.poll() is None:
            time.sleep(0.05)
        code, said = clone.start(stage).end()
        assert code == 0 or "lock" in said.lower(), said
        assert first.end()[0] == 0
        assert clone.output(stage) == undisturbed
