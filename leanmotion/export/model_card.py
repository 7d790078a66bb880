"""The README.md of an exported adapter: what was removed, with the evidence."""

from collections.abc import Mapping
from typing import Any

from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline.settings import Settings

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

Final figures ({extractor} features, N = {videos}, {frames} frames, a split that no choice used): FVD to the original under
other seeds {fvd_cross} (the original's own: {null}); FVD to the original under the same seeds {fvd}. {note}

Teacher: base `{base}`{base_revision}, adapter `{adapter}`{adapter_revision}, weights sha256 `{sha256}`.
The licence of these weights is the teacher's.

```python
from leanmotion import load_pruned_pipeline

pipe = load_pruned_pipeline("pruned", base="{base}")
frames = pipe("a prompt", num_frames={frames}, height={height}, width={width}, num_inference_steps={steps}, guidance_scale={guidance}).frames[0]
```
"""  # noqa: E501


def model_card(settings: Settings, record: TeacherRecord, student: Student, evidence: Mapping[str, Any]) -> str:
    """The card's text; only computed figures, so that it is the same whenever it is written."""
    arm = "original" if student.is_teacher else "distilled"
    official = settings.extractor.name == "i3d" and settings.extractor.sha256 is None
    values = {name: _three_digits(evidence.get(f"{arm}_{name}")) for name in ("fvd_cross", "null", "fvd")}
    teacher, sampling = settings.teacher, settings.sampling
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
        videos=settings.prompts.report,
        note="" if official else "Not the FVD of papers, which takes the official I3D features.",
        base=teacher.base,
        base_revision=f" at {record.revisions['base']}" if "base" in record.revisions else "",
        adapter=teacher.adapter,
        adapter_revision=f" at {record.revisions['adapter']}" if "adapter" in record.revisions else "",
        sha256=record.sha256,
        frames=sampling.frames,
        height=sampling.height,
        width=sampling.width,
        steps=sampling.steps,
        guidance=sampling.guidance,
        **values,
    )


def _three_digits(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
