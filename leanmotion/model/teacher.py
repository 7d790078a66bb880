"""The teacher: any Stable Diffusion base and any motion adapter, pinned by the SHA-256 of what loading reads."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanmotion.errors import LeanmotionError
from leanmotion.model.base_kinds import refuse_other_configs, refuse_other_unets
from leanmotion.model.weights import WEIGHTS, adapter_files, base_files, base_variant, commit_of, locate
from leanmotion.model.whole_base import refuse_gaps, refuse_other_files, whole_text_encoder
from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.digests import file_sha256, values_digest
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.setting_address import added
from leanmotion.pipeline.settings import MotionNorm, Teacher
from leanmotion.pipeline.watched_paths import read_pin

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline


@dataclass(frozen=True)
class TeacherRecord:
    """What `inspect` saw of the teacher. Later stages hang on this, not on paths.

    `sha256` tells this teacher from any other, in every address: `teacher_digest` of `files` (name -> SHA-256) and
    `motion_norm`. `adapter` holds the UNet's motion settings; `macs` and `parameters` are of the whole UNet (one clip,
    one call), `motion_macs` and `motion_parameters` of its motion modules. `dtype`: what they are loaded in.
    `revisions`: the hub's commits of `base` and `adapter`, of those that come from there.
    """

    sha256: str
    files: dict[str, str]
    dtype: str
    adapter: dict[str, Any]
    macs: int
    motion_macs: int
    parameters: int
    motion_parameters: int
    revisions: dict[str, str] = field(default_factory=dict)
    motion_norm: MotionNorm = "clip"

    @property
    def weights(self) -> str:
        """SHA-256 of all weight files together: what `teacher.sha256` pins."""
        return _total(self.files)

    def write(self, path: str | Path) -> None:
        """Write as JSON with a digest; a norm as before there was a choice is left out."""
        kept = {k: v for k, v in self.__dict__.items() if (k, v) != ("motion_norm", "clip")}
        write_record(path, dict(sorted(kept.items())))

    @classmethod
    def read(cls, path: str | Path) -> "TeacherRecord":
        """Read what `inspect` wrote.

        Raises:
            LeanmotionError: Missing or damaged.
        """
        try:
            record = cls(**read_record(path, made_by="dvc repro inspect"))
        except TypeError as error:
            raise LeanmotionError(f"{path}: of another version: delete it, then `dvc repro inspect`") from error
        if teacher_digest(record.weights, record.motion_norm) != record.sha256:
            raise LeanmotionError(f"{path}: corrupt (its hashes disagree): delete it, then `dvc repro inspect`")
        return record


def teacher_digest(weights: str, norm: MotionNorm) -> str:
    """What tells a teacher from others: the SHA-256 of its weights; under `frame` of these and of that norm's code."""
    if norm == "clip":
        return weights
    return values_digest([weights, norm, code_address("leanmotion.model.motion_norm:set_motion_norm")])


def weight_files(teacher: Teacher) -> dict[str, Path]:
    """Every file that loading the teacher reads, as `base/…` and `adapter/…`, in a fixed order.

    Raises:
        LeanmotionError: A path is missing, or a hub model is not to be had.
    """
    files: dict[str, Path] = {}
    for role, place in places(teacher).items():
        if place.is_file():
            files[f"{role}/{place.name}"] = place
            continue
        inside = base_files(place) if role == "base" else adapter_files(place)
        if not any(f.suffix in WEIGHTS for f in inside):
            raise LeanmotionError(
                f"teacher.{role}: {place} holds no weights: restore it (`git checkout -- {getattr(teacher, role)}`)"
            )
        files |= {f"{role}/{f.relative_to(place).as_posix()}": f for f in inside}
    return files


def places(teacher: Teacher) -> dict[str, Path]:
    """Where base and adapter lie: folders or single files; fetched from the hub if need be."""
    return {
        "base": locate(teacher.base, role="base"),
        "adapter": locate(teacher.adapter, role="adapter"),
    }


def revisions(teacher: Teacher) -> dict[str, str]:
    """The hub's commit of each part that comes from there."""
    return {role: commit for role, place in places(teacher).items() if (commit := commit_of(place))}


def fingerprint(teacher: Teacher) -> tuple[str, dict[str, str]]:
    """SHA-256 of the whole teacher and of each of its files."""
    files = {name: file_sha256(path) for name, path in weight_files(teacher).items()}
    return _total(files), files


def verify(teacher: Teacher, record: TeacherRecord) -> None:
    """Refuse weights other than those that `inspect` recorded.

    Raises:
        LeanmotionError: A file is missing, added or altered.
    """
    _, files = fingerprint(teacher)
    for name in sorted(files.keys() | record.files.keys()):
        if files.get(name) != record.files.get(name):
            role = name.partition("/")[0]
            mend = "restore it, or run `dvc repro inspect` to accept the new one"
            if read_pin(path := getattr(teacher, role), f"teacher.{role}"):
                # The hub's newest commit moved: nothing that DVC watches did.
                mend = f"name the commit that is meant as `revision` in {path}, then `dvc repro inspect`"
            raise LeanmotionError(f"{name} of the teacher is not the file that data/teacher.json records: {mend}")


def check_dtype(teacher: Teacher, record: TeacherRecord) -> None:
    """Refuse another dtype or norm than `inspect` recorded: what hangs on the record would not be drawn anew for it.

    Raises:
        LeanmotionError: It is another.
    """
    if teacher.dtype != record.dtype:
        raise LeanmotionError(
            f"teacher.dtype is {teacher.dtype}, data/teacher.json records {record.dtype}: `dvc repro inspect`"
        )
    if added(teacher.motion_norm != record.motion_norm):
        raise LeanmotionError(
            f"teacher.motion_norm is {teacher.motion_norm}, data/teacher.json records {record.motion_norm}: "
            "`dvc repro inspect`"
        )


def check_configs(teacher: Teacher) -> None:
    """Refuse a base of another kind by the config files of its folder.

    Raises:
        LeanmotionError: As said.
    """
    place = locate(teacher.base, role="base")
    if place.is_dir():
        refuse_other_configs(place, f"teacher.base: {teacher.base}")


def load_base(teacher: Teacher) -> "StableDiffusionPipeline":
    """The base pipeline, in the teacher's dtype, without a safety checker.

    Raises:
        LeanmotionError: Not a whole Stable Diffusion pipeline with a plain `UNet2DConditionModel`.
    """
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    from leanmotion.pipeline.alignment import align

    place, what = locate(teacher.base, role="base"), f"teacher.base: {teacher.base}"
    options: dict[str, Any] = {"dtype": getattr(torch, teacher.dtype)}
    refuse_other_files(place, what)
    try:
        with _quiet_loading():
            if place.is_file():
                # diffusers would ask the hub for the configuration that a single file lacks, though no hub id is named.
                base = StableDiffusionPipeline.from_single_file(str(place), local_files_only=True, **options)
            else:
                text = whole_text_encoder(place, what, options)
                parts = {} if text is None else {"text_encoder": text}
                base = StableDiffusionPipeline.from_pretrained(
                    place, **parts, safety_checker=None, requires_safety_checker=False, trust_remote_code=False,
                    variant=base_variant(place), **options,
                )  # fmt: skip
    except LeanmotionError:
        raise
    except Exception as error:  # diffusers raises many kinds on a folder that is not one
        mend = " (a single file takes its configuration from the hub's cache: give a folder)" if place.is_file() else ""
        raise LeanmotionError(f"teacher.base: {place} does not load ({_line(error)}){mend}") from error
    if not isinstance(base.unet, UNet2DConditionModel):
        # AnimateDiffPipeline.save_pretrained writes such folders; given an adapter, diffusers ignores it silently.
        raise LeanmotionError(
            f"teacher.base: {place} holds a {type(base.unet).__name__}: give a base with a UNet2DConditionModel"
        )
    refuse_gaps(base, what)
    for part in (base.unet, base.vae, base.text_encoder):
        align(part)
    return base


def load_motion_adapter(teacher: Teacher) -> "MotionAdapter":
    """The motion adapter from a folder, an original single file or the hub, in the teacher's dtype."""
    import torch

    from leanmotion.model.original_format import load_adapter

    place = locate(teacher.adapter, role="adapter")
    return load_adapter(place).to(getattr(torch, teacher.dtype))


def load_pipeline(
    teacher: Teacher, base: "StableDiffusionPipeline | None" = None, adapter: "MotionAdapter | None" = None
) -> "AnimateDiffPipeline":
    """AnimateDiff's pipeline (Guo et al. 2023, arXiv 2307.04725): base and motion adapter together, on the CPU.

    Args:
        teacher: Where both lie, their dtype and norm; nothing is verified against a sha256 here.
        base: Already loaded; else the teacher's.
        adapter: Likewise.

    Returns:
        The pipeline; its `unet` is a `UNetMotionModel` with all the adapter's motion modules.

    Raises:
        LeanmotionError: One of them is missing or does not load, or they do not fit one another.
    """
    from diffusers import AnimateDiffPipeline, UNetMotionModel

    base, adapter = base or load_base(teacher), adapter or load_motion_adapter(teacher)
    what = f"teacher.base: {teacher.base}"
    refuse_other_unets(base, what)
    _check_fit(base.unet.config, adapter.config, teacher)
    try:
        unet: Any = UNetMotionModel.from_unet2d(base.unet, adapter)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:  # of a kind that we have not met
        raise LeanmotionError(f"{what}: no motion UNet can be made of its UNet ({_line(error)})") from error
    spatial = {key for key in unet.state_dict() if ".motion_modules." not in key}
    if odd := spatial ^ set(base.unet.state_dict()):
        raise LeanmotionError(f"{what}: {min(odd)} of its UNet has no place in a motion UNet, or none to come from")
    unet.to(base.unet.dtype)
    if added(teacher.motion_norm == "frame"):
        from leanmotion.model.motion_norm import set_motion_norm

        set_motion_norm(unet, teacher.motion_norm)
    return AnimateDiffPipeline(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer, unet=unet, motion_adapter=None,  # pyright: ignore[reportArgumentType]
        scheduler=base.scheduler,
    )  # fmt: skip


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Loading takes a second; its bars would drown the stage's own. A pickle that torch refuses gets our line alone."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        yield


def _check_fit(unet: Any, adapter: Any, teacher: Teacher) -> None:
    theirs, ours = tuple(adapter.block_out_channels), tuple(unet.block_out_channels)
    if theirs != ours:
        raise LeanmotionError(
            f"teacher.adapter: {teacher.adapter} has widths {theirs}, teacher.base {ours}: "
            "they are of different architectures; choose an adapter made for this base"
        )
    layers = [_each(value, len(ours)) for value in (adapter.motion_layers_per_block, unet.layers_per_block)]
    if layers[0] != layers[1]:
        raise LeanmotionError(
            f"teacher.adapter: {teacher.adapter} has {layers[0]} modules a level, teacher.base {layers[1]} layers: "
            "they are of different architectures; choose an adapter made for this base"
        )


def _each(value: Any, levels: int) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value] * levels


def _total(files: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(files.items())).encode()).hexdigest()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
