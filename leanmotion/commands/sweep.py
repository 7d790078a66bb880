"""All missing chunks of all variants that are known yet, drawn by warm processes: stages then only merge.

DVC runs one stage after the other, and each loads the models anew. A sweep loads them once, takes units out of one
UNet and puts them back, and shares the work with every other sweep that sees the same scratch folder.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmotion.commands.plan import plan
from leanmotion.errors import LeanmotionError
from leanmotion.model.requests import Draw, Request, Variant
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.model.variants import under_other_norm
from leanmotion.pipeline.settings import Settings, load_settings
from leanmotion.pipeline.stage import guarded
from leanmotion.pipeline.tables import read_frame
from leanmotion.probing.probe_sets import probes_of
from leanmotion.prompts.splits import SPLITS, prompt_rows, training_rows
from leanmotion.videos.rendering import Take, fill
from leanmotion.videos.store import Chunk, ChunkStore, cut

_TRIES, _BETWEEN_SECONDS = 5, 2.0

Job = tuple[Take, list[Chunk]]


@dataclass(frozen=True)
class Pending:
    """What a sweep is to draw: jobs by family of stages, and what had to be left out, with the mend."""

    samplers: Callable[[Variant], Draw]
    jobs: dict[str, list[Job]]
    left_out: list[str]

    def missing(self) -> dict[str, int]:
        """Family -> chunks that the store lacks; one that several families share counts in the first."""
        store, seen, found = ChunkStore(), set[Chunk](), {}
        for family, jobs in self.jobs.items():
            lacking = set(store.missing([chunk for _, chunks in jobs for chunk in chunks])) - seen
            seen |= lacking
            found[family] = len(lacking)
        return found


def outdated(root: Path = Path()) -> set[str] | None:
    """Stages whose outputs `dvc repro` would, or might, make anew; None where DVC cannot be asked.

    DVC holds a lock while it runs, and while another asks: hence some patience.
    """
    for attempt in range(_TRIES):
        try:
            planned = plan(root)
        except LeanmotionError as error:
            if "lock" not in str(error) or attempt + 1 == _TRIES:
                break
            time.sleep(_BETWEEN_SECONDS)
            continue
        return {*planned.changed, *planned.behind, *planned.frozen}
    return None


def pending(settings: Settings, data: Path, stale: set[str] | None) -> Pending:
    """The takes of `generate`, `ablate`, `probe`, `render`, `confirm_videos` and `clips` that can be known now.

    Args:
        settings: All settings; prompts and seeds come from them as the `prompts` stage writes them.
        data: The folder of artefacts, with `teacher.json`.
        stale: Stages whose outputs are out of date (`outdated`): what hangs on them is left out. None: not known,
            so that all is left out that hangs on an artefact, not on settings and weights alone.

    Raises:
        LeanmotionError: `inspect` has not run, or not on these settings.
    """
    record = TeacherRecord.read(data / "teacher.json")
    if stale and "inspect" in stale:
        raise LeanmotionError(f"{data / 'teacher.json'} is of other settings or weights: `dvc repro inspect` first")
    students, left_out = _students(settings, data, stale)
    samplers = Samplers(settings, record, students)
    others = Samplers(*under_other_norm(settings, record), students)
    by_norm = {one.record.sha256: one for one in (samplers, others)}
    sets = settings.prompts.confirm_splits
    requests = {
        (split, seeds): _requests(prompt_rows(settings.prompts, split), seeds)
        for split in [*SPLITS, *sets]
        for seeds in "ab"
    }
    takes: dict[str, list[Take]] = {
        "generate": [Take("full", samplers.teacher(), split, seeds) for split in SPLITS for seeds in "ab"],
        "ablate": [Take(block, samplers.teacher([block]), "rank") for block in settings.teacher.blocks],
        "probe": _probes(settings, data, samplers, stale, left_out),
        "render": [
            Take(arm, variant, split, "b")
            for student in students
            for split in ("select", "report")
            for arm, variant in (
                ("pruned", samplers.teacher(student.removed)),
                ("distilled", samplers.student(student)),
            )
        ],
        "confirm_videos": [
            Take(name, variant, split, seeds)
            for drawn, splits in ((samplers, sets), (others, sets[: settings.prompts.confirm_other_norm]))
            for name, variant, seeds in _chosen(data, drawn, students, stale, left_out if drawn is samplers else [])
            for split in splits
        ],
    }
    jobs = {
        family: [
            (take, cut(take.variant, requests[take.split, take.seeds][: take.count], settings.sampling))
            for take in members
        ]
        for family, members in takes.items()
    }
    if settings.clips.source == "teacher":
        variant, asked = samplers.teacher(), _requests(training_rows(settings.prompts, settings.clips), "a")
        jobs["clips"] = [(Take("clips", variant, "train"), cut(variant, asked, settings.sampling))]
    return Pending(lambda variant: by_norm[variant.weights.partition("+")[0]](variant), jobs, left_out)


def _requests(rows: Sequence[Mapping[str, Any]], seeds: str) -> list[Request]:
    return [Request(row["prompt"], row["negative"], row[f"seed_{seeds}"]) for row in rows]


def sweep(params: Path, data: Path, stale: set[str] | None, device: str | None = None) -> None:
    """Draw what is missing, together with whoever else does; returns when nothing is. `device`: as in torch."""
    if device is not None:
        os.environ["LEANMOTION_DEVICE"] = device
    found = pending(load_settings(params), data, stale)
    fill([job for jobs in found.jobs.values() for job in jobs], found.samplers, label=f"sweep {device or ''}".strip())


def sweep_together(params: Path, data: Path, stale: set[str] | None, devices: Sequence[str]) -> None:
    """A warm process per device, until nothing is missing.

    Raises:
        LeanmotionError: one of them failed; it has said why, and the others have done its share where they could.
    """
    # Not forked: CUDA and OpenMP do not survive it.
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_one_of_several, args=(params, data, stale, device), daemon=True) for device in devices
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if failed := sum(process.exitcode != 0 for process in processes):
        raise LeanmotionError(f"{failed} of {len(processes)} processes failed: what they finished is kept, run again")


def _one_of_several(params: Path, data: Path, stale: set[str] | None, device: str) -> None:
    guarded(sweep, alone=False)(params, data, stale, device)


def _students(settings: Settings, data: Path, stale: Collection[str] | None) -> tuple[list[Student], list[str]]:
    students: list[Student] = []
    absent: list[str] = []
    for name in settings.rounds:
        if stale is not None and f"distill@{name}" not in stale and (data / "students" / name).is_dir():
            students.append(Student.read(data / "students" / name))
        else:
            absent.append(name)
    line = f"render of {', '.join(absent)}: {_why(stale)}: `dvc repro distill` first"
    return students, [line] if absent else []


def _probes(
    settings: Settings, data: Path, samplers: Samplers, stale: Collection[str] | None, left_out: list[str]
) -> list[Take]:
    table = data / "similarity.parquet"
    if stale is None or "similarity" in stale or not table.is_file():
        left_out.insert(0, f"probe: {_why(stale)}: `dvc repro similarity` first")
        return []
    rows = read_frame(table, "similarity")
    return [
        Take(probe.name, samplers.teacher(probe.units), "rank", count=settings.probe.prompts)
        for name, chosen in settings.probe.sets.items()
        for probe in probes_of(name, chosen, rows, seed=settings.probe.seed)
    ]


def _chosen(
    data: Path, samplers: Samplers, students: Sequence[Student], stale: Collection[str] | None, left_out: list[str]
) -> list[tuple[str, Variant, str]]:
    """What confirms the choice, where it is known and some round was chosen: name, variant and seeds."""
    if stale is None or "select" in stale or not (data / "chosen/student.json").is_file():
        left_out.append(f"confirm_videos: {_why(stale)}: `dvc repro select` first")
        return []
    wanted = Student.read(data / "chosen")
    teacher, found = samplers.teacher(), [one for one in students if one.weights == wanted.weights]
    originals = [] if wanted.is_teacher else [("full", teacher, seeds) for seeds in "ab"]
    return originals + [("distilled", samplers.student(one), "b") for one in found]


def _why(stale: Collection[str] | None) -> str:
    return "DVC is busy or cannot tell whether it is up to date" if stale is None else "not there, or out of date"
