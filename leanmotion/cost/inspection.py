"""What the teacher is made of: its units with parameters and MACs, and the record of its weights."""

import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leanmotion.cost.macs import unet_macs
from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.model.removal import without_units
from leanmotion.model.sampler import latent_shape
from leanmotion.model.teacher import (
    TeacherRecord,
    check_configs,
    fingerprint,
    load_motion_adapter,
    load_pipeline,
    revisions,
    teacher_digest,
    weight_files,
)
from leanmotion.model.units import block_ids, list_units, parameters
from leanmotion.pipeline.settings import Settings


def inspect_teacher(settings: Settings) -> tuple[TeacherRecord, list[dict[str, Any]]]:
    """Load the teacher once, check it against the settings, and describe it.

    Returns:
        The record of its weights, and a row per unit (artefact `units`): MACs are of one UNet call on one clip at
        the sampling size, without guidance.

    Raises:
        LeanmotionError: Other weights than `teacher.sha256`, other blocks than `teacher.blocks`, weights that are
            not finite, or more frames than the adapter's positions.
    """
    total, files = checked_fingerprint(settings)
    pipeline = load_pipeline(settings.teacher)
    unet = pipeline.unet
    macs = check_pipeline(settings, pipeline)
    units = list_units(unet)
    rows = [
        {"unit": unit.id, **{k: v for k, v in asdict(unit).items() if k != "id"}, "macs": macs[unit.id]}
        for unit in units
    ]
    whole = parameters(unet)
    with without_units(unet, block_ids(unet)):
        spatial = parameters(unet)
    config = {k: v for k, v in unet.config.items() if k.startswith(("motion_", "use_motion"))}
    record = TeacherRecord(
        sha256=teacher_digest(total, settings.teacher.motion_norm),
        files=files,
        dtype=settings.teacher.dtype,
        adapter=config,
        macs=macs["total"],
        motion_macs=macs["motion"],
        parameters=whole,
        motion_parameters=whole - spatial,
        revisions=revisions(settings.teacher),
        motion_norm=settings.teacher.motion_norm,
    )
    return record, rows


def checked_fingerprint(settings: Settings) -> tuple[str, dict[str, str]]:
    """SHA-256 of the whole teacher and of each of its files.

    Raises:
        LeanmotionError: Other weights than `teacher.sha256`.
    """
    for name, path in weight_files(settings.teacher).items():
        _check_sums(name, path)
    total, files = fingerprint(settings.teacher)
    expected = settings.teacher.sha256
    if expected is not None and total != expected:
        raise LeanmotionError(
            f"teacher.sha256 is {expected}, the weights found are {total}: restore them "
            "(embedded ones by `git checkout -- data/teacher`), or put the new value into params.yaml to accept them"
        )
    return total, files


def _check_sums(name: str, path: Path) -> None:
    """Refuse a torch archive whose content is not that of its checksums: torch, which maps it, never looks at them."""
    if path.suffix == ".json" or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.CRC:  # 0: torch was told to compute none
                    archive.read(record)
    except (zipfile.BadZipFile, OSError) as error:
        raise LeanmotionError(f"teacher: {name} is damaged inside ({error}): get it again") from error


def check_pipeline(settings: Settings, pipeline: Any) -> dict[str, int]:
    """Check the loaded teacher against the settings: MACs of a call at their size, as `unet_macs` gives them.

    Raises:
        LeanmotionError: Other blocks than `teacher.blocks`, weights that are not finite, more frames than the
            adapter's positions, a size that the VAE cannot make, or a UNet that cannot be called.
    """
    unet = pipeline.unet
    _check_blocks(settings.teacher.blocks, block_ids(unet))
    for part in ("unet", "vae", "text_encoder"):
        _check_finite(part, getattr(pipeline, part))
    _check_frames(settings.sampling.frames, unet)
    _, frames, height, width = latent_shape(pipeline, settings.sampling)
    tokens = pipeline.tokenizer.model_max_length
    try:
        return unet_macs(unet, frames=frames, height=height, width=width, tokens=tokens)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # of a kind that we have not met
        line, size = " ".join(str(error).split())[:200], settings.sampling
        raise LeanmotionError(
            f"teacher.base: {settings.teacher.base}: its UNet cannot be called for {size.frames} frames of "
            f"{size.width} x {size.height} ({line}): choose another base or size"
        ) from error


def check_adapter(settings: Settings, adapter: Any = None) -> int:
    """Check the settings against adapter and base by what is quickly read; returns the number of motion blocks.

    Raises:
        LeanmotionError: An adapter that does not load, other blocks than `teacher.blocks`, more frames than its
            positions; or a base of another kind.
    """
    check_configs(settings.teacher)
    adapter = adapter or load_motion_adapter(settings.teacher)
    found = block_ids(adapter)
    _check_blocks(settings.teacher.blocks, found)
    _check_frames(settings.sampling.frames, adapter)
    return len(found)


def _check_blocks(listed: list[str], present: list[str]) -> None:
    missing = [block for block in present if block not in listed]
    unknown = [block for block in listed if block not in present]
    wrong = [f"has no {', '.join(unknown)}{did_you_mean(unknown[0], present)}"] if unknown else []
    wrong += [f"has {', '.join(missing)} too"] if missing else []
    if wrong:
        raise LeanmotionError(f"teacher.blocks: the model {' and '.join(wrong)}: list all its blocks, and no others")


def _check_finite(part: str, model: Any) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise LeanmotionError(
                f"the teacher's weight {part}.{name} holds NaN or infinity: get an intact copy of the file"
            )


def _check_frames(frames: int, unet: Any) -> None:
    longest = unet.config.motion_max_seq_length
    if frames > longest:
        raise LeanmotionError(f"sampling.frames is {frames}: this adapter has positions for at most {longest}")
