"""The tensors of a motion adapter's file, whatever its suffix, nesting and prefix; and what else goes by such names."""

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.file_kinds import file_kind
from leanmotion.pipeline.setting_address import added

NOTE = "motion_adapter"
"""What a file says of the adapter's config, as JSON: in the header of safetensors, or a record of a torch archive."""
PLACE = re.compile(r"(?:(?:down_blocks|up_blocks)\.\d+|mid_block)\.motion_modules\.\d+\.")
# Of several state dicts in one file the one under the first of these names; averages beside it are left out.
_NAMES = ("state_dict", "module", "model", "unet", "motion_module", "motion_adapter", "params")
_DEEPEST = 16


@dataclass(frozen=True)
class OtherKind:
    """Something else than a motion module: a pattern that one of its keys has, what it is, what to give instead."""

    pattern: str
    name: str
    mend: str


_ITS_MODULE = "give the motion module that it belongs to"
_PLAIN = "give a plain text-to-video motion module"
OTHER_KINDS = (
    OtherKind(
        r"motion_modules.*(?i:lora|hada_|lokr_)", "a motion LoRA", "give the motion module, and load the LoRA with it"
    ),
    OtherKind(
        r"(?i:lora|hada_|lokr_|lycoris)",
        "a spatial LoRA (as v3_sd15_adapter is)",
        "give the motion module; fuse the LoRA into the base",
    ),
    OtherKind(r"controlnet_|input_hint_block", "a SparseCtrl encoder", _ITS_MODULE),
    OtherKind(r"temporal_attentions\.", "a Hotshot-XL module (SDXL)", "give one for Stable Diffusion 1.5"),
    OtherKind(r"(?:^|\.)img_encoder\.", "an image-to-video module", _PLAIN),
    OtherKind(r"(?:fps|motion)_embedding\.|^FancyVideo", "a FancyVideo module, which is told the frame rate", _PLAIN),
    OtherKind(r"cc_projections|qkv_merge|pose_encoder", "a camera control (CameraCtrl, MotionCtrl)", _ITS_MODULE),
)
"""Told by one key of theirs, whether motion modules are in the file or not."""
NOT_MOTION = (
    OtherKind(r"^model\.diffusion_model\.", "a whole Stable Diffusion checkpoint", "give it as the base"),
    OtherKind(r"time_stack|time_mixer", "a Stable Video Diffusion model", _PLAIN),
    OtherKind(r"down_blocks\.\d+\.(?:resnets|attentions)\.", "a UNet without motion modules", _PLAIN),
    OtherKind(r"^(?:encoder|decoder)\.(?:conv_in|down|mid|up)", "a VAE", _PLAIN),
    OtherKind(r"text_model\.", "a text encoder", _PLAIN),
)
"""Told by one key of theirs in files without motion modules."""
PIA = "a PIA module with its own conv_in"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file under their keys there, mapped rather than read where its format allows; and its note.

    The format is told by the content: safetensors, or what `torch.save` writes, of which no code is unpickled. In
    nested dictionaries the one with motion modules is taken.

    Raises:
        LeanmotionError: another kind of file, damaged, or of more than one state dict.
    """
    from safetensors import SafetensorError, safe_open

    what = f"motion module {path}"
    try:
        if (kind := file_kind(path)) is None:
            raise ValueError("neither of these formats")
        name = kind.name
        if name == "a safetensors file":
            with safe_open(path, framework="pt") as file:
                note = (file.metadata() or {}).get(NOTE, "{}")
                return {key: file.get_tensor(key) for key in file.keys()}, _note(note)  # noqa: SIM118
        if not name.startswith(("a zip archive, as torch", "a pickle")):
            raise LeanmotionError(f"{what}: is {name}: {kind.mend or 'give a .safetensors or a torch file'}")
        return _state_dict(what, _torch_load(path)), _note(_record(path))
    except pickle.UnpicklingError as error:
        raise LeanmotionError(
            f"{what}: holds pickled code, which is never run here: convert it to .safetensors"
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError) as error:
        raise LeanmotionError(f"{what}: not a readable file, or cut short: get it again") from error


def add_note(path: Path, note: str) -> None:
    """Puts a record beside those of an archive that `torch.save` wrote; whoever loads its tensors does not see it."""
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{folder}/{NOTE}.json"), note)  # of a date that is always the same


def motion_tensors(what: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The motion modules among a file's tensors, without what stands before their keys (`module.`, `unet.`, ...).

    Raises:
        LeanmotionError: it is something else, or holds motion modules twice.
    """
    refuse_others(what, tensors, OTHER_KINDS)
    if any(t.ndim == 4 and t.shape[1] == 9 for key, t in tensors.items() if key.endswith("conv_in.weight")):
        raise LeanmotionError(f"{what}: this is {PIA}: {_PLAIN}")
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if added("_orig_mod." in key):  # a part of it was compiled
            key = key.replace("_orig_mod.", "")
        if place := PLACE.search(key):
            found.setdefault(key[: place.start()], {})[key[place.start() :]] = value
    dtypes = {value.dtype for tensors in found.values() for value in tensors.values()}
    if odd := sorted(str(dtype).removeprefix("torch.") for dtype in dtypes if not dtype.is_floating_point):
        raise LeanmotionError(f"{what}: holds weights as {odd[0]} (quantised?): give it in floating point")
    if added(any(t.is_meta or t.layout != torch.strided for motion in found.values() for t in motion.values())):
        raise LeanmotionError(f"{what}: holds tensors without values, or sparse ones: save it as plain tensors")
    if not found:
        refuse_others(what, tensors, NOT_MOTION)
        raise LeanmotionError(f"{what}: holds no motion modules: {_PLAIN}")
    if len(found) > 1:
        names = ", ".join(repr(prefix) for prefix in sorted(found))
        raise LeanmotionError(f"{what}: holds motion modules under several prefixes ({names}): keep those of one")
    return next(iter(found.values()))


def refuse_others(what: str, keys: Collection[str], kinds: Collection[OtherKind]) -> None:
    """Raises `LeanmotionError` where keys are those of one of these kinds."""
    for kind in kinds:
        if any(re.search(kind.pattern, key) for key in keys):
            raise LeanmotionError(f"{what}: this is {kind.name}: {kind.mend}")


def _note(text: str) -> dict[str, Any]:
    note = json.loads(text)
    if not isinstance(note, dict):
        raise ValueError("the note of the adapter's config is none")
    return note


def _record(path: str | os.PathLike[str]) -> str:
    """The note in a torch archive; `{}` where there is none, or the file is older than such archives."""
    if not zipfile.is_zipfile(path):
        return "{}"
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith(f"/{NOTE}.json")), None)
        return archive.read(name).decode() if name else "{}"


def _torch_load(path: Path) -> Any:
    with warnings.catch_warnings():
        # torch warns of a pickle protocol not its own before it refuses the file: one line, ours, is enough.
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        if path.suffix.lower() == ".safetensors":  # given the name, torch would go by it
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before torch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)


def _state_dict(what: str, loaded: Any) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping | list | tuple):
        raise LeanmotionError(f"{what}: holds a {type(loaded).__name__}: give a state dict")
    held = dict(_tensors_in(loaded, ""))
    fits = {name: tensors for name, tensors in held.items() if any(PLACE.search(key) for key in tensors)}
    if len(fits) > 1:
        known = [name for wanted in _NAMES for name in fits if name.rpartition("/")[2] == wanted]
        if not known:
            raise LeanmotionError(f"{what}: holds several state dicts ({', '.join(sorted(fits))}): keep one")
        return fits[known[0]]
    # Of what holds none, all keys: they say what it is.
    everything = {key: value for tensors in held.values() for key, value in tensors.items()}
    if not everything:
        raise LeanmotionError(f"{what}: holds no tensors by name: give a state dict")
    return next(iter(fits.values()), everything)


def _tensors_in(
    loaded: Mapping[Any, Any] | Sequence[Any], name: str, depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Names of nested dictionaries, in lists too, and the tensors that each holds itself."""
    entries = dict(loaded) if isinstance(loaded, Mapping) else dict(enumerate(loaded))
    tensors = {str(key): value for key, value in entries.items() if isinstance(value, Tensor)}
    if tensors and isinstance(loaded, Mapping):
        yield name or "the file itself", tensors
    for key, value in entries.items():
        if isinstance(value, Mapping | list | tuple) and depth < _DEEPEST:
            yield from _tensors_in(value, f"{name}/{key}" if name else str(key), depth + 1)
