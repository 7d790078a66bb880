"""The README.md of an exported adapter: what was removed, with the evidence."""

from collections.abc import Mapping
from typing import Any

from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.watched_paths import read_pin

_CARD = """---
library_name: diffusers
tags: [animatediff, motion-adapter, pruned]
---

# Pruned motion adapter

{removed} of {blocks} motion blocks of `{adapter}` were deleted by leanmotion, and the rest distilled from the original.

Deleted: {names}.

| | original | this adapter |
|---|---|---|
| parameters of the UNet | {base_parameters:,} | {parameters:,} |
| MACs of a UNet call on one clip | {base_macs:,} | {macs:,} |

Why this many: {reason}

Final figures ({extractor} features, N = {videos}, {frames} frames, a split that no choice used): FVD to the original
under other seeds {fvd_cross} (the original's own: {null}); FVD to the original under the same seeds {fvd}. {note}

Teacher: base `{base}`{base_revision}, adapter `{adapter}`{adapter_revision}, weights sha256 `{sha256}`.
The licence of these weights is the teacher's.

```python
{torch_import}from leanmotion import load_pruned_pipeline

pipe = load_pruned_pipeline("pruned", {base_arguments})
frames = pipe("a prompt").frames[0]
```

It samples as it was judged: {frames} frames of {width} x {height}, {steps} steps, guidance {guidance}{negative},
{scheduler}.
Elsewhere set these yourself: with another scheduler the same adapter draws other clips.
"""


def model_card(
    settings: Settings, record: TeacherRecord, student: Student, evidence: Mapping[str, Any], judged: Mapping[str, Any]
) -> str:
    """The card's text; only computed figures, so that it is the same whenever it is written.

    Args:
        settings: all settings.
        record: of the teacher.
        student: the chosen round's.
        evidence: what was measured of it.
        judged: how (`judged_sampling`).
    """
    arm = "original" if student.is_teacher else "distilled"
    official = settings.extractor.name == "i3d" and settings.extractor.sha256 is None
    values = {name: _three_digits(evidence.get(f"{arm}_{name}")) for name in ("fvd_cross", "null", "fvd")}
    teacher = settings.teacher
    return _CARD.format(
        removed=len(student.removed),
        blocks=len(teacher.blocks),
        names=", ".join(student.removed) or "none",
        base_parameters=record.parameters,
        base_macs=record.macs,
        parameters=evidence.get(f"{arm}_parameters", record.parameters),
        macs=evidence.get(f"{arm}_macs", record.macs),
        reason=evidence.get("reason", "not stated"),
        extractor=settings.extractor.name,
        videos=evidence.get(f"{arm}_videos", "not stated"),
        note="" if official else "Not the FVD of papers, which takes the official I3D features.",
        base=_hub_or_path(teacher.base, "teacher.base"),
        base_revision=f" at {record.revisions['base']}" if "base" in record.revisions else "",
        adapter=_hub_or_path(teacher.adapter, "teacher.adapter"),
        adapter_revision=f" at {record.revisions['adapter']}" if "adapter" in record.revisions else "",
        sha256=record.sha256,
        torch_import="" if teacher.dtype == "float32" else "import torch\n",
        base_arguments=_base_arguments(settings, record),
        **{name: judged[name] for name in ("frames", "height", "width", "steps", "guidance")},
        negative=f", negative prompt {judged['negative']!r}" if judged["negative"] and judged["guidance"] > 1 else "",
        scheduler=_described(judged["scheduler"]),
        **values,
    )


def _base_arguments(settings: Settings, record: TeacherRecord) -> str:
    """As a call names the base: with its commit on the hub, and the dtype that the evidence was drawn in."""
    given = [f'base="{_hub_or_path(settings.teacher.base, "teacher.base")}"']
    if commit := record.revisions.get("base"):
        given.append(f'revision="{commit}"')
    if settings.teacher.dtype != "float32":
        given.append(f"torch_dtype=torch.{settings.teacher.dtype}")
    return ", ".join(given)


def _described(scheduler: Mapping[str, Any]) -> str:
    """A scheduler by its class and what commonly differs between two of one class."""
    told = ("beta_schedule", "prediction_type", "timestep_spacing", "steps_offset", "clip_sample")
    return f"{scheduler['_class_name']} ({', '.join(f'{k} {scheduler[k]}' for k in told if k in scheduler)})"


def _hub_or_path(path: str, setting: str) -> str:
    """What a reader of the card can load: a model of the hub by its name there."""
    pin = read_pin(path, setting)
    return path if pin is None else pin.hub


def _three_digits(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
