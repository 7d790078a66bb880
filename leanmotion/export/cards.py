"""The README.md of each exported form: what it computes, what it saves where, how it was judged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from leanmotion.export.comfyui import NODE, WIDTHS, beta_schedule, checkpoint_file, raw_schedule, value_schedule
from leanmotion.export.precision import ROUNDING
from leanmotion.model.student import Student
from leanmotion.model.teacher import TeacherRecord
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.watched_paths import read_pin

FORMS = ("pruned", "portable", "original", "comfyui", "node")
"""Those that have a card; `node` is the custom node inside of `comfyui`."""
_TOLD = ("beta_schedule", "prediction_type", "timestep_spacing", "steps_offset", "clip_sample")


def write_cards(
    settings: Settings,
    record: TeacherRecord,
    student: Student,
    evidence: Mapping[str, Any],
    judged: Mapping[str, Any],
    *,
    prompt: str,
    comfyui: bool = True,
) -> dict[str, str]:
    """The text of each form's card; only computed figures, so that it is the same whenever it is written.

    Args:
        settings: all settings.
        record: of the teacher.
        student: the chosen round's.
        evidence: what was measured of it.
        judged: how (`judged_sampling`).
        prompt: what the cards' code draws.
        comfyui: whether there is such a form, for the others to point to.
    """
    environment = Environment(
        loader=PackageLoader("leanmotion.export"), undefined=StrictUndefined,
        trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    values = {
        **_what_it_is(settings, record, student),
        **_what_it_saves(record, student, evidence),
        **_how_it_was_judged(settings, student, evidence, judged),
        **_how_it_loads(settings, record),
        **_how_it_draws(settings, judged, prompt),
        "comfyui": comfyui,
        "values": value_schedule(student.removed),
        "node": NODE,
    }
    return {form: environment.get_template(f"{form}.md.j2").render(values) for form in FORMS}


def _what_it_is(settings: Settings, record: TeacherRecord, student: Student) -> dict[str, Any]:
    teacher, revisions = settings.teacher, record.revisions
    hubs = {name: _hub(getattr(teacher, name), f"teacher.{name}") for name in ("adapter", "base")}
    steps = f"and the rest distilled from the original in {student.steps} steps"
    widths = record.adapter.get("block_out_channels", WIDTHS)
    return {
        "license": settings.export.license,
        # As the hub has them: an adapter is made from one adapter, and goes with a base.
        "base_model": hubs["adapter"] or hubs["base"],
        "relation": "finetune" if hubs["adapter"] else "adapter",
        "removed": student.removed,
        "blocks": len(teacher.blocks),
        "repair": steps if student.steps else "and the rest left as it was: training was not needed, or did not help",
        "odd_widths": "" if tuple(widths) == WIDTHS else ", ".join(map(str, widths)),
        "base": hub_or_path(teacher.base, "teacher.base"),
        "adapter": hub_or_path(teacher.adapter, "teacher.adapter"),
        "base_revision": f" at {revisions['base']}" if "base" in revisions else "",
        "adapter_revision": f" at {revisions['adapter']}" if "adapter" in revisions else "",
        "sha256": record.weights,
        "paths": ""
        if all(map(_found_anywhere, (teacher.base, teacher.adapter)))
        else " Paths start in the project that this was exported from.",
    }


def _what_it_saves(record: TeacherRecord, student: Student, evidence: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Counts of the whole model and of what is left; `motion`: parameters of motion modules alone."""
    arm = _arm(student)
    parameters = int(evidence.get(f"{arm}_parameters", record.parameters))
    macs = int(evidence.get(f"{arm}_macs", record.macs))
    whole = {"parameters": record.parameters, "macs": record.macs, "motion": record.motion_parameters}
    gone = record.parameters - parameters
    left = {"parameters": parameters, "macs": macs, "motion": record.motion_parameters - gone}
    return {name: {k: f"{v:,}" for k, v in counts.items()} for name, counts in (("whole", whole), ("left", left))}


def _how_it_was_judged(
    settings: Settings, student: Student, evidence: Mapping[str, Any], judged: Mapping[str, Any]
) -> dict[str, Any]:
    arm = _arm(student)
    return {
        "reason": evidence.get("reason", "not stated"),
        "extractor": settings.extractor.name,
        "official": settings.extractor.name == "i3d" and settings.extractor.sha256 is None,
        "videos": evidence.get(f"{arm}_videos", "not stated"),
        **{name: _three_digits(evidence.get(f"{arm}_{name}")) for name in ("fvd_cross", "null", "fvd")},
        "confirmed": _confirmed(evidence, f"{settings.evaluation.interval:.0%}"),
        **{name: judged[name] for name in ("frames", "height", "width", "steps", "guidance")},
        "negative": f", negative prompt {judged['negative']!r}"
        if judged["negative"] and judged["guidance"] > 1
        else "",
        "scheduler": _described(judged["scheduler"]),
        "norm": settings.teacher.motion_norm,
        "half": settings.export.dtype == "float16",
        "rounding": ROUNDING,
    }


def _confirmed(evidence: Mapping[str, Any], interval: str) -> str:
    """The README's headline in a sentence: what new clips said of the chosen round; empty where none did."""
    if "confirmed_excess" not in evidence:
        return ""
    found = {name.removeprefix("confirmed_"): value for name, value in evidence.items()}
    # Rounded as in metrics/ first, so that cards and README say the same per cent.
    excess, low, high = (f"{round(found[f'excess{end}'], 3):.0%}" for end in ("", "_low", "_high"))
    more = f"{excess.removeprefix('-')} {'more' if found['excess'] >= 0 else 'less'}"
    return (
        f"{found['videos']} clips under seeds that nothing else used (means over sets of N = "
        f"{found['videos'] // found['sets']}): FVD to the original under other seeds {found['fvd_cross']:.3g} "
        f"(the original's own: {found['null']:.3g}), {more} ({interval} interval: {low} to {high})"
    )


def _how_it_loads(settings: Settings, record: TeacherRecord) -> dict[str, str]:
    """As a call names the base: with its commit on the hub, and the dtype that the evidence was drawn in."""
    base = f'"{hub_or_path(settings.teacher.base, "teacher.base")}"'
    moves = not _found_anywhere(settings.teacher.base)
    more = []
    if commit := record.revisions.get("base"):
        more.append(f'revision="{commit}"')
    if settings.teacher.dtype != "float32":
        more.append(f"torch_dtype=torch.{settings.teacher.dtype}")
    return {
        "torch_import": "" if settings.teacher.dtype == "float32" else "import torch\n",
        "base_path": base,
        "base_place": f", and the base's in place of `{base}`" if moves else "",
        "base_arguments": ", ".join([f"base={base}", *more]),
        "stock_arguments": "".join(f", {argument}" for argument in more),
    }


def _how_it_draws(settings: Settings, judged: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """A call of stock diffusers that draws as was judged, and what ComfyUI's nodes call the same."""
    scheduler, negative = judged["scheduler"], judged["negative"]
    call = {
        "num_frames": judged["frames"],
        "height": judged["height"],
        "width": judged["width"],
        "num_inference_steps": judged["steps"],
        "guidance_scale": judged["guidance"],
        **({"negative_prompt": negative} if negative and judged["guidance"] > 1 else {}),
    }
    told = {name: scheduler[name] for name in _TOLD if name in scheduler}
    return {
        "prompt": json.dumps(prompt, ensure_ascii=False),
        "call": ", ".join(f"{name}={value!r}" for name, value in call.items()),
        "other_scheduler": "" if settings.sampling.scheduler == "base" else scheduler["_class_name"],
        "scheduler_arguments": ", ".join(f"{name}={value!r}" for name, value in told.items()),
        "checkpoint": checkpoint_file(hub_or_path(settings.teacher.base, "teacher.base")),
        "betas": scheduler.get("beta_schedule"),
        "beta_schedule": beta_schedule(scheduler),
        "raw": raw_schedule(scheduler),
        "predicts": scheduler.get("prediction_type", "epsilon"),
    }


def _arm(student: Student) -> str:
    return "original" if student.is_teacher else "distilled"


def _described(scheduler: Mapping[str, Any]) -> str:
    """A scheduler by its class and what commonly differs between two of one class."""
    return f"{scheduler['_class_name']} ({', '.join(f'{k} {scheduler[k]}' for k in _TOLD if k in scheduler)})"


def _found_anywhere(path: str) -> bool:
    """Whether what a setting names is found from any folder: on the hub, or by an absolute path."""
    return Path(path).is_absolute() or read_pin(path, "teacher") is not None


def _hub(path: str, setting: str) -> str:
    """The hub's repository that a pin names, `owner/name`; empty for what is no pin."""
    pin = read_pin(path, setting)
    return "" if pin is None else "/".join(pin.hub.split("/")[:2])


def hub_or_path(path: str, setting: str) -> str:
    """What a reader of the card can load: a model of the hub by its name there."""
    pin = read_pin(path, setting)
    return path if pin is None else pin.hub


def _three_digits(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
