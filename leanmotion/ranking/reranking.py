"""The order of what is left, asked again of a round's student: which blocks matter may change as others go.

Every block that the student still has is removed from it in turn, the rank split is drawn with the ranking's seeds, and
the criterion is taken to the *original's* videos: damage counts from where distillation has to lead, not from where
the student stands. What is gone stays gone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from leanmotion.features.embedding import embedded
from leanmotion.features.extractors import Extractor
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.influence.parts import measure
from leanmotion.model.requests import requests_of
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import RoundPlan, Student
from leanmotion.model.units import list_units
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import Settings
from leanmotion.probing.similarity import SimilarityRecorder
from leanmotion.ranking.fvd import frechet_distance, kernel_distance, paired_distance
from leanmotion.videos.rendering import Take, render


def keeps_its_order(settings: Settings, previous: Student) -> bool:
    """Whether a round takes the first order's list: re-ranking is off, the round starts from the teacher, which that
    order was made of, or the order is random and another student tells it nothing.
    """
    return not settings.ranking.rerank or previous.is_teacher or settings.ranking.criterion == "random"


def reranked(plan: RoundPlan, scores: Mapping[str, float], blocks: Sequence[str]) -> dict[str, list[str]]:
    """The content of the round's deletion list, as `deletions` has it.

    Args:
        plan: what the first order would delete: how many blocks are gone after the round, and its previous student.
        scores: of every block that the previous student has; more is more important.
        blocks: all, in the model's order; equal scores keep it.
    """
    more = len(plan.removed) - len(plan.previous.removed)
    left = sorted((b for b in blocks if b in scores), key=lambda block: scores[block])
    gone = {*plan.previous.removed, *left[:more]}
    return {"removed": [b for b in blocks if b in gone]}


def scores_on(
    student: Student,
    settings: Settings,
    samplers: Samplers,
    extractor: Extractor,
    *,
    prompts: Path,
    units: pd.DataFrame,
    savings: Mapping[str, float],
) -> dict[str, float]:
    """The criterion of every block that a student still has; more is more important.

    A distance is the original's to the student without the block. Per MAC or second it is what the block's removal adds
    to the student's own distance, as the other blocks' damage is in both.

    Args:
        student: among the samplers' students.
        settings: all settings.
        samplers: of teacher and student.
        extractor: of the distances.
        prompts: the folder of prompt tables.
        units: artefact `units`.
        savings: seconds that a block's removal saves; read by `fvd_per_latency` alone.
    """
    blocks = [block for block in settings.teacher.blocks if block not in student.removed]
    criterion = settings.ranking.criterion
    if criterion == "similarity":
        return _similarity(student, settings, samplers, prompts)
    if criterion == "influence":
        return _influence(student, settings, samplers, prompts)
    features = _features(student, blocks, settings, samplers, extractor, prompts)

    def distance(name: str) -> float:
        pair = features.features("original", "rank", "a"), features.features(name, "rank", "a")
        if criterion == "kvd":
            return kernel_distance(*pair, paired=True)
        return paired_distance(*pair).value if criterion == "paired" else frechet_distance(*pair)

    found = {block: distance(block) for block in blocks}
    if criterion not in ("fvd_per_mac", "fvd_per_latency"):
        return found
    cost = units.set_index("unit")["macs"].astype(float).to_dict() if criterion == "fvd_per_mac" else dict(savings)
    # A measured saving can be 0 or below: floored as in the first ranking.
    floor, own = max(cost[block] for block in blocks) / 100, distance("student")
    return {block: (value - own) / max(cost[block], floor) for block, value in found.items()}


def _features(
    student: Student, blocks: list[str], settings: Settings, samplers: Samplers, extractor: Extractor, prompts: Path
) -> FeatureSet:
    takes = [Take("original", samplers.teacher(), "rank"), Take("student", samplers.student(student), "rank")]
    takes += [Take(block, samplers.student(student, [block]), "rank") for block in blocks]
    # Another run may share the scratch folder, and have a round of the same name.
    out = scratch_folder() / "rerank" / f"{student.round}-{student.weights[:16]}.parquet"
    render(takes, out, prompts=prompts, settings=settings, samplers=samplers, label=f"blocks left in {student.round}")
    return FeatureSet([embedded(out, extractor)])


def _similarity(student: Student, settings: Settings, samplers: Samplers, prompts: Path) -> dict[str, float]:
    requests = requests_of(prompts, "rank", "a")[: settings.similarity.prompts]
    sampler = samplers.sampler(samplers.student(student))
    unet, size = sampler.pipeline.unet, settings.sampling.chunk
    with SimilarityRecorder(unet, list_units(unet, "temporal_transformer")) as recorder:
        for start in range(0, len(requests), size):
            sampler(requests[start : start + size])
    cosines: dict[str, list[float]] = {}
    for row in recorder.rows():
        cosines.setdefault(row["unit"], []).append(row["cosine"])
    return {block: -float(np.mean(values)) for block, values in cosines.items()}


def _influence(student: Student, settings: Settings, samplers: Samplers, prompts: Path) -> dict[str, float]:
    """The change of the student's own output without each of its blocks, on its own trajectory."""
    variant = samplers.student(student)
    requests = requests_of(prompts, "rank", "a")[: settings.influence.prompts]
    found: dict[str, float] = {}
    measured = measure(variant, lambda: samplers.sampler(variant).pipeline, settings, requests)
    for row in measured.changes:
        if row["unit"] == row["other"] and row["unit"] in settings.teacher.blocks:
            share = measured.weights[row["step"]] * float(np.mean(row["values"]))
            found[row["unit"]] = found.get(row["unit"], 0.0) + share
    return found
