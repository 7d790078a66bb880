"""The chosen student in the forms that people load, each checked against it before anything is handed over."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from leanmotion.cost.macs import unet_inputs, unet_macs
from leanmotion.distillation.rounds import student_unet
from leanmotion.errors import LeanmotionError
from leanmotion.export.cards import hub_or_path, write_cards
from leanmotion.export.comfyui import MOTION_FILE, checkpoint_file, has_its_blocks, write_comfyui
from leanmotion.export.precision import cast_motion, round_motion
from leanmotion.model.judged_sampling import judged_sampling
from leanmotion.model.motion_norm import set_motion_norm
from leanmotion.model.motion_state import motion_config
from leanmotion.model.original_format import holds_positions, load_adapter, write_original
from leanmotion.model.pruned_adapter import apply_pruned, save_portable, save_pruned
from leanmotion.model.sampler import latent_shape
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student
from leanmotion.model.units import list_units, motion_slots, parameters
from leanmotion.model.weights import locate
from leanmotion.pipeline.digests import file_sha256
from leanmotion.pipeline.platforms import sync
from leanmotion.pipeline.writing import write_text

if TYPE_CHECKING:
    from diffusers import UNetMotionModel

SUMS = "SHA256SUMS"
"""Of all files of an export, as `sha256sum --check` reads them: stock formats have no place for a digest."""
_TOLERANCE = 1e-5
"""Of the largest output: the portable forms compute removed blocks, whose zeros pass through other kernels."""


def export_student(
    samplers: Samplers, student: Student, evidence: Mapping[str, Any], out: Path, *, prompt: str
) -> dict[str, int]:
    """Write `pruned/`, `portable/`, `original/` and `comfyui/` below `out`, or nothing unless all of it is right.

    `comfyui/` is there for adapters with the blocks of Stable Diffusion 1.5's: ComfyUI takes no other.

    Args:
        samplers: Of the teacher.
        student: The chosen round's; the teacher itself where nothing is to be deleted.
        evidence: What was measured of it; goes into the model card and the pruned form's config.
        out: The export's folder.
        prompt: What the cards' code draws.

    Returns:
        Bytes per form.

    Raises:
        LeanmotionError: A form computes something else than the student.
    """
    unet = student_unet(samplers, student).eval()
    _check_cost(samplers, unet, student)
    check_place(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    settings = samplers.settings
    judged = judged_sampling(settings.sampling, samplers.base.scheduler, settings.prompts.negative)
    blocks = [slot.block for slot in motion_slots(unet)]
    comfyui = has_its_blocks(blocks)
    cards = write_cards(settings, samplers.record, student, evidence, judged, prompt=prompt, comfyui=comfyui)
    half = settings.export.dtype == "float16"
    if half:
        round_motion(unet, _inputs(samplers, unet))
        cast_motion(unet, torch.float16)
    try:
        save_pruned(unet, partial / "pruned", evidence=evidence, judged=judged)
        save_portable(unet, partial / "portable")
        for form in ("pruned", "portable"):
            _write_card(partial / form, cards[form])
        _write_original(samplers, unet, partial / "original", cards["original"])
        if comfyui:
            checkpoint = checkpoint_file(hub_or_path(settings.teacher.base, "teacher.base"))
            write_comfyui(partial / "comfyui", student.removed, judged, cards, checkpoint)
        if half:
            cast_motion(unet, torch.float32)
        _check_forms(samplers, unet, partial)
        files = sorted(f for f in partial.rglob("*") if f.is_file())
        write_text(partial / SUMS, "".join(f"{file_sha256(f)}  {f.relative_to(partial).as_posix()}\n" for f in files))
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync(out.parent)
    return {
        form.name: sum(f.stat().st_size for f in form.rglob("*") if f.is_file())
        for form in sorted(out.iterdir())
        if form.is_dir()
    }


def _write_original(samplers: Samplers, unet: "UNetMotionModel", folder: Path, card: str) -> None:
    folder.mkdir()
    # AnimateLCM is known by having none.
    positions = holds_positions(locate(samplers.settings.teacher.adapter, role="adapter"))
    for name, silent in ((MOTION_FILE, True), ("motion_module.ckpt", True), ("motion_module_small.ckpt", False)):
        write_original(unet, folder / name, positions=positions, silent=silent)
    _write_card(folder, card)


def _write_card(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")


def check_place(out: Path) -> None:
    """Refuse a folder that is another one.

    Raises:
        LeanmotionError: It is a link.
    """
    if out.is_symlink():
        raise LeanmotionError(f"{out}: is a link: name the folder itself, so that nothing is replaced elsewhere")


def _check_cost(samplers: Samplers, student: "UNetMotionModel", chosen: Student) -> None:
    """A removed block must cost nothing: its place computes nothing, and the UNet's figures are less by the block's."""
    from leanmotion.model.teacher import load_pipeline

    for slot in motion_slots(student):
        if slot.block in chosen.removed and list(slot.module.children()):
            raise LeanmotionError(
                f"export: {slot.block} should be gone and is still computed: not handed over; report it"
            )
    whole: Any = load_pipeline(samplers.settings.teacher, samplers.base).unet
    shape = latent_shape(samplers.base, samplers.settings.sampling)
    size = {
        "frames": shape[1],
        "height": shape[2],
        "width": shape[3],
        "tokens": samplers.base.tokenizer.model_max_length,
    }
    blocks = {unit.id: unit for unit in list_units(whole, "temporal_transformer")}
    gone = [blocks[name] for name in chosen.removed]
    macs = unet_macs(whole, **size, units=gone)
    wanted = {
        "parameters": parameters(whole) - sum(unit.parameters for unit in gone),
        "MACs": macs["total"] - sum(macs[unit.id] for unit in gone),
    }
    found = {"parameters": parameters(student), "MACs": unet_macs(student, **size, units=[])["total"]}
    for name, value in wanted.items():
        if found[name] != value:
            raise LeanmotionError(
                f"export: the student has {found[name]:,} {name}, {value:,} are left without "
                f"{', '.join(chosen.removed)}: a removed block still costs; not handed over; report it"
            )


def _inputs(samplers: Samplers, unet: "UNetMotionModel") -> dict[str, torch.Tensor]:
    """Noise in the shapes that the student was judged in."""
    shape = latent_shape(samplers.base, samplers.settings.sampling)
    tokens = samplers.base.tokenizer.model_max_length
    return unet_inputs(unet, frames=shape[1], height=shape[2], width=shape[3], tokens=tokens)


@torch.no_grad()
def _check_forms(samplers: Samplers, student: "UNetMotionModel", folder: Path) -> None:
    """The student's output on noise must be every form's, and must not be that of the bare image UNet."""
    from diffusers import UNetMotionModel

    inputs = _inputs(samplers, student)
    wanted = student(**inputs).sample

    def check(form: str, unet: "UNetMotionModel", exact: bool) -> None:
        found = unet.float().eval()(**inputs).sample
        allowed = 0.0 if exact else _TOLERANCE * float(wanted.abs().max())
        if not float((found - wanted).abs().max()) <= allowed:
            raise LeanmotionError(
                f"export: {form} computes something else than the student: not handed over; report it"
            )

    check("pruned", apply_pruned(samplers.base.unet, folder / "pruned"), exact=True)
    for form in ("portable", "original/motion_module.safetensors", "original/motion_module.ckpt"):
        adapter = load_adapter(folder / form)
        if dict(motion_config(adapter)) != motion_config(student):
            raise LeanmotionError(f"export: {form} loads as another adapter: not handed over; report it")
        whole: Any = UNetMotionModel.from_unet2d(samplers.base.unet, adapter)
        set_motion_norm(whole, samplers.settings.teacher.motion_norm)
        check(form, whole, exact=False)
