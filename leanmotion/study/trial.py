"""One deletion with one way of distilling it, from the teacher to its distance: what studies are made of."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leanmotion.distillation.clip_source import ClipSource
from leanmotion.distillation.rounds import TRAINING, run_round
from leanmotion.evaluation.evaluation import ORIGINAL, Arm, evaluate_split
from leanmotion.features.embedding import EMBEDDING, embedded
from leanmotion.features.extractors import Extractor
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.video_tables import find_clips
from leanmotion.model.pruned_adapter import read_pruned_config
from leanmotion.model.samplers import Samplers
from leanmotion.model.sampling_address import sampling_address
from leanmotion.model.student import RoundPlan, Student
from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.setting_address import addressed
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import read_table, table_meta
from leanmotion.study.motion_sense import motion_rows
from leanmotion.videos.codec import encode
from leanmotion.videos.rendering import Take, render


@dataclass(frozen=True)
class Trial:
    """What is deleted and how it is distilled.

    Args:
        question: what it helps to answer: `orders`, `prediction`, `granularity`, `depth`, `path` or `repair`.
        order: what chose the units.
        granularity: of the units.
        deletions: units gone after each step of the way, the last being all of them; one entry is one shot.
        seed: of the training.
        steps: of the training, over the whole way; 0: drawn as it is, without a distilled arm.
    """

    question: str
    order: str
    granularity: str
    deletions: tuple[tuple[str, ...], ...]
    seed: int
    steps: int

    @property
    def removed(self) -> tuple[str, ...]:
        """All units gone in the end."""
        return self.deletions[-1]

    @property
    def path(self) -> str:
        """`one_shot` or `iterative`."""
        return "one_shot" if len(self.deletions) == 1 else "iterative"


class Bench:
    """What all trials share: teacher, clips to train on, prompts and the original's features of one split.

    Args:
        settings: all settings.
        samplers: of the teacher.
        extractor: of the distances.
        units: artefact `units`.
        clips: the `clips` table.
        prompts: the folder of prompt tables.
        split: which clips are compared, with seeds b.
    """

    def __init__(
        self,
        settings: Settings,
        samplers: Samplers,
        extractor: Extractor,
        *,
        units: pd.DataFrame,
        clips: Path,
        prompts: Path,
        split: str = "report",
    ) -> None:
        self.settings, self.samplers, self.extractor = settings, samplers, extractor
        self.units, self.clips, self.prompts, self.split = units.set_index("unit"), clips, prompts, split
        self.folder = scratch_folder() / "trials"
        self._clips_digest = ClipSource(clips).digest

    def address(self, trial: Trial, settings: Settings | None = None) -> str:
        """SHA-256 of all that a trial's figures depend on."""
        settings = settings or self.settings
        how = {**addressed(settings.distillation), "steps": trial.steps, "seed": trial.seed} if trial.steps else {}
        what = {
            "deletions": [list(removed) for removed in trial.deletions],
            "distillation": how,
            "sampling": sampling_address(settings.sampling),
            "evaluation": addressed(settings.evaluation),
            "negative": settings.prompts.negative,
            "teacher": self.samplers.record.sha256,
            "dtype": self.samplers.record.dtype,
            "clips": self._clips_digest,
            "prompts": table_meta(read_table(self.prompts / f"{self.split}.parquet", "prompts"))["digest"],
            "extractor": self.extractor.digest,
            "code": code_address(*TRIAL, apart=APART),
        }
        return values_digest(what)

    def run(self, trial: Trial, settings: Settings | None = None) -> list[dict[str, Any]]:
        """Distil and draw; rows of the `study` table: pruned only, and distilled. A killed trial goes on.

        Args:
            trial: what to try.
            settings: other settings of distillation than the bench's.
        """
        settings = settings or self.settings
        address = self.address(trial, settings)
        arms, evidence = {"pruned": self.samplers.teacher(trial.removed)}, dict[str, Any]()
        if trial.steps:
            student = self._distilled(trial, settings, self.folder / address)
            self.samplers.students[student.weights] = student
            arms["distilled"] = self.samplers.student(student)
            evidence = read_pruned_config(student.adapter)["evidence"]
        read = self._features(ORIGINAL, {ORIGINAL: self.samplers.teacher()}, "ab")
        read_arms = self._features(address, arms, "b")
        record = self.samplers.record
        gone = self.units.loc[list(trial.removed)]
        saved = {name: int(gone[name].sum()) for name in ("parameters", "macs")}
        rows = []
        for arm in arms:
            read.adopt(read_arms, arm, as_variant=f"trial/{arm}")
            cost = {name: int(getattr(record, name)) - saved[name] for name in saved}
            rows.append(Arm(address[:12], arm, f"trial/{arm}", len(trial.removed), **cost))
        original = Arm("base", "original", ORIGINAL, 0, record.parameters, record.macs)
        found = evaluate_split(read, original, rows, self.split, settings.evaluation)[1:]
        labels = {
            "address": address,
            "question": trial.question,
            "order": trial.order,
            "granularity": trial.granularity,
            "path": trial.path,
            "seed": trial.seed,
            "steps": trial.steps,
            "units": list(trial.removed),
            "parameters_removed": saved["parameters"],
            "macs_removed": saved["macs"],
            **{f"distance_{when}": evidence.get(f"distance_{when}") for when in ("before", "after")},
        }
        kept = {"arm", "videos", "null", "kvd", "colour_accuracy", "shape_accuracy"}
        kept |= {f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")}
        return [{**labels, "removed": row["removed"], **{k: v for k, v in row.items() if k in kept}} for row in found]

    def motion_rows(self) -> list[dict[str, Any]]:
        """What the extractor feels of motion: the original's clips, frames shuffled, and the first one repeated."""
        read = self._features(ORIGINAL, {ORIGINAL: self.samplers.teacher()}, "ab")
        clips = find_clips(self._videos(ORIGINAL), variant=ORIGINAL, split=self.split, seeds="b")
        return motion_rows(read, clips, self.extractor, self.split, self.settings.evaluation)

    def forget(self, trial: Trial) -> None:
        """Remove a trial's students, once its rows are kept: of a real teacher they take gigabytes."""
        shutil.rmtree(self.folder / self.address(trial), ignore_errors=True)

    def _distilled(self, trial: Trial, settings: Settings, folder: Path) -> Student:
        """The trial's student, each step of the way starting from the one before."""
        student = Student(folder, "base", self.samplers.record.sha256, ())
        parts = len(trial.deletions)
        for i, removed in enumerate(trial.deletions):
            place = folder / f"{i}"
            if not (place / "student.json").is_file():
                # Whole steps: the last part takes what division leaves.
                steps = trial.steps // parts + (trial.steps % parts if i == parts - 1 else 0)
                how = settings.distillation.model_copy(update={"seed": trial.seed})
                plan = RoundPlan(f"trial-{folder.name[:12]}-{i}", student, removed, steps)
                chosen = settings.model_copy(update={"distillation": how})
                run_round(chosen, plan, self.samplers, self.clips, place, keep=False)
            student = Student.read(place)
        return student

    def _videos(self, name: str) -> Path:
        return self.folder / f"{name}-{self.split}.parquet"

    def _features(self, name: str, variants: dict[str, Any], seeds: str) -> FeatureSet:
        takes = [Take(arm, variant, self.split, s) for arm, variant in variants.items() for s in seeds]
        out = self._videos(name)
        render(
            takes, out, prompts=self.prompts, settings=self.settings, samplers=self.samplers, label=f"trial {name[:12]}"
        )
        return FeatureSet([embedded(out, self.extractor)])


_MEASURES = ("excess", "fvd", "paired", "motion", "motion_accuracy")


def cumulative(order: list[str], counts: list[int], model: list[str]) -> tuple[tuple[str, ...], ...]:
    """The first so many of an order for each count, each in the model's order."""
    place: Callable[[str], int] = model.index
    return tuple(tuple(sorted(order[:count], key=place)) for count in counts)


TRIAL = (Bench, *TRAINING, Samplers, encode, *EMBEDDING)
"""What makes a trial's figures. All code that these reach is part of its address."""
APART = (run_round, render, embedded)
"""How students, clips and features are kept and found again decides no figure: other roots say what they are."""
