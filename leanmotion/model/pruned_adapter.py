"""The pruned adapter as a folder, and the same adapter in the full shape that stock diffusers loads.

A pruned folder holds `pruned_motion.safetensors` (what is left of the motion modules, under the keys of
`diffusers.UNetMotionModel`) and `config.json`. Neither name is one that a stock loader looks for: given this folder
by mistake, `MotionAdapter.from_pretrained` stops, where it would otherwise leave missing blocks uninitialised.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from leanmotion.errors import LeanmotionError
from leanmotion.model.motion_norm import motion_norm, set_motion_norm
from leanmotion.model.motion_state import (
    check_keys,
    full_motion_state,
    motion_config,
    motion_state,
    plain,
    portable_tensors,
)
from leanmotion.model.removal import remove_units, removed_units
from leanmotion.pipeline.alignment import align
from leanmotion.pipeline.digests import file_sha256
from leanmotion.pipeline.platforms import sync
from leanmotion.pipeline.records import DIGEST, record_digest
from leanmotion.pipeline.setting_address import added
from leanmotion.pipeline.writing import saying_unwritable

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline, UNetMotionModel

PathLike = str | os.PathLike[str]
WEIGHTS = "pruned_motion.safetensors"
FORMAT = 1


def save_pruned(
    unet: nn.Module,
    folder: PathLike,
    *,
    evidence: Mapping[str, Any] | None = None,
    card: str | None = None,
    judged: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the motion modules of a `UNetMotionModel`, without what was removed, as a pruned adapter folder.

    The folder appears whole or not at all, and replaces what stood there. Same weights and evidence: same bytes.

    Args:
        unet: units of any granularity may have been removed (`leanmotion.model.removal`).
        folder: its parent need not exist.
        evidence: plain JSON values; what was measured, of which teacher. Kept in `config.json`.
        card: text of `README.md`.
        judged: how clips were drawn for the evidence (`judged_sampling`): what is loaded from the folder samples so.

    Returns:
        The folder.

    Raises:
        LeanmotionError: it cannot be written, or the evidence is not plain JSON.
    """
    from safetensors.torch import save_file

    def write(place: Path) -> None:
        save_file(portable_tensors(motion_state(unet)), place / WEIGHTS, metadata={"format": "pt"})
        config = {
            "_class_name": "LeanMotionAdapter",
            "format": FORMAT,
            "motion_adapter": motion_config(unet),
            "removed_units": removed_units(unet),
            "sha256": file_sha256(place / WEIGHTS),
            "evidence": dict(evidence or {}),
            **({"sampling": dict(judged)} if judged else {}),
        }
        if added(motion_norm(unet) == "frame"):
            config["motion_norm"] = "frame"
        # Weights do not tell heads or norm groups: a flipped bit there would be another model.
        (place / "config.json").write_text(_json({**config, DIGEST: record_digest(json.loads(_json(config)))}))

    return _write_folder(folder, write, card)


def save_portable(unet: nn.Module, folder: PathLike, *, card: str | None = None) -> Path:
    """Writes a stock `MotionAdapter` folder of full shape; removed units are there and do exactly nothing.

    Loads in `MotionAdapter.from_pretrained`, costs what the teacher costs. Whole or not at all, byte-stable.
    """
    from safetensors.torch import save_file

    def write(place: Path) -> None:
        tensors = portable_tensors(full_motion_state(unet))
        save_file(tensors, place / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        # No diffusers version: the bytes depend on the weights alone.
        config = _json({"_class_name": "MotionAdapter", **motion_config(unet)})
        (place / "config.json").write_text(config, encoding="utf-8", newline="\n")

    return _write_folder(folder, write, card)


def read_pruned_config(folder: PathLike) -> dict[str, Any]:
    """`config.json` of a pruned adapter folder, after checking that the folder is one and its weights are intact.

    Raises:
        LeanmotionError: missing, truncated or altered files, another kind of folder, or a newer format.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError as error:
        raise LeanmotionError(f"pruned adapter {folder}: no config.json: give a folder of `save_pruned`") from error
    except (ValueError, RecursionError) as error:
        raise LeanmotionError(f"pruned adapter {folder}: config.json is damaged ({error}): export again") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "LeanMotionAdapter":
        raise LeanmotionError(
            f"pruned adapter {folder}: config.json is of a {kind}, not a LeanMotionAdapter: load it with diffusers"
        )
    if config.get("format") != FORMAT:
        raise LeanmotionError(f"pruned adapter {folder}: format {config.get('format')}: update leanmotion")
    for key, type_ in (("motion_adapter", dict), ("removed_units", list), ("sha256", str)):
        if not isinstance(config.get(key), type_):
            raise LeanmotionError(f"pruned adapter {folder}: config.json lacks {key!r}: export again")
    if config.get(DIGEST) != record_digest(config):
        raise LeanmotionError(f"pruned adapter {folder}: config.json is not what was written: copy it again")
    if not (folder / WEIGHTS).is_file():
        raise LeanmotionError(f"pruned adapter {folder}: no {WEIGHTS}: copy the whole folder")
    if file_sha256(folder / WEIGHTS) != config["sha256"]:
        raise LeanmotionError(f"pruned adapter {folder}: {WEIGHTS} is cut short or altered: copy it again")
    return config


def apply_pruned(unet2d: nn.Module, folder: PathLike) -> "UNetMotionModel":
    """A `UNetMotionModel` of an image UNet and a pruned adapter, in the dtype and on the device of `unet2d`.

    Spatial weights are shared with `unet2d`, not copied; removed units never take memory. All weights lie where torch
    would put them (those of `unet2d` are moved there): the output is, to the bit, that of the UNet that was saved.

    Raises:
        LeanmotionError: the folder is damaged, or was made for a UNet of another architecture.
    """
    from diffusers import UNet2DConditionModel, UNetMotionModel
    from safetensors.torch import load_file

    if not isinstance(unet2d, UNet2DConditionModel):
        raise LeanmotionError(
            f"base: its unet is a {type(unet2d).__name__}: a motion adapter needs a base with a UNet2DConditionModel"
        )
    folder, config = Path(folder), read_pruned_config(folder)
    motion = config["motion_adapter"]
    pairs = {
        "block_out_channels": "block_out_channels",
        "motion_layers_per_block": "layers_per_block",
        "motion_norm_num_groups": "norm_num_groups",
    }
    for ours, theirs in pairs.items():
        levels = len(motion["block_out_channels"])
        if _per_level(motion[ours], levels) != _per_level(plain(unet2d.config[theirs]), levels):
            raise LeanmotionError(
                f"pruned adapter {folder}: made for a UNet with {theirs} {motion[ours]}, "
                f"the base has {plain(unet2d.config[theirs])}: give the base that it was pruned on"
            )
    # `from_unet2d` reads an adapter's config and moves it to a device: it needs no more of it to build the model.
    stand_in: Any = SimpleNamespace(config=motion, to=lambda **_: None)
    with torch.device("meta"):
        unet: Any = UNetMotionModel.from_unet2d(unet2d, stand_in, load_weights=False)
    remove_units(unet, config["removed_units"])
    tensors = load_file(folder / WEIGHTS, device=str(unet2d.device))
    align(unet2d)
    state = {key: value.to(unet2d.dtype) for key, value in tensors.items()} | dict(unet2d.state_dict())
    expected = {key: tuple(value.shape) for key, value in unet.state_dict().items()}
    check_keys(f"pruned adapter {folder} on this base", {k: tuple(v.shape) for k, v in state.items()}, expected)
    unet.load_state_dict(state, assign=True)
    align(unet)
    if added(config.get("motion_norm") == "frame"):
        set_motion_norm(unet, "frame")
    return unet.eval()


def load_pruned_pipeline(
    adapter: PathLike,
    *,
    base: Any,
    torch_dtype: torch.dtype | None = None,
    as_judged: bool = True,
    pipeline_class: type[Any] | None = None,
    **pipeline_kwargs: Any,
) -> "AnimateDiffPipeline":
    """A pipeline of diffusers with a pruned motion adapter.

    It samples as the adapter was judged, if its folder says how: with that scheduler, and by default, where a call does
    not say otherwise, with that number of frames and steps, size, guidance and negative prompt.

    Args:
        adapter: a pruned adapter folder (`save_pruned`).
        base: a Stable Diffusion pipeline folder, single file or hub id, or a loaded pipeline; with a
            `UNet2DConditionModel`. A folder that holds a `UNetMotionModel` (what `AnimateDiffPipeline` itself
            saves) already has motion modules and is refused.
        torch_dtype: of the whole pipeline; the base's own when None.
        as_judged: False keeps the base's scheduler and diffusers' defaults.
        pipeline_class: one of `leanmotion.model.pruned_pipeline.PIPELINES`, `AnimateDiffPipeline` when None.
        pipeline_kwargs: what that class takes beside a base's parts (`controlnet`, `pag_applied_layers`); all others
            go to `StableDiffusionPipeline.from_pretrained`, such as `revision` or `variant`.

    Returns:
        The pipeline, on the CPU (or where a loaded base is): what was removed takes neither memory nor time. On equal
        weights it draws, to the bit, what the pruned UNet drew before `save_pruned`.

    Raises:
        LeanmotionError: adapter, base and class do not load or do not fit one another; or the base holds an IP-Adapter
            or a LoRA that is not fused.
    """
    judged = read_pruned_config(adapter).get("sampling", {})
    from leanmotion.model.pruned_pipeline import checked_class, load_base, made_of, refuse_layers

    kind, more = checked_class(pipeline_class, pipeline_kwargs)
    if isinstance(base, str | os.PathLike):
        base = load_base(os.fspath(base), torch_dtype, pipeline_kwargs)
    refuse_layers(base)
    pipeline = made_of(kind, pruned_pipeline(adapter, base), more, judged if as_judged else {})
    return pipeline if torch_dtype is None else pipeline.to(torch_dtype)


def pruned_pipeline(adapter: PathLike, base: Any) -> "AnimateDiffPipeline":
    """The stock pipeline of a loaded base, its scheduler included, with a pruned adapter (`load_pruned_pipeline`)."""
    from diffusers import AnimateDiffPipeline

    unet = apply_pruned(base.unet, adapter)
    names = ("vae", "text_encoder", "tokenizer", "scheduler", "feature_extractor", "image_encoder")
    parts: dict[str, Any] = {name: getattr(base, name, None) for name in names}
    for part in parts.values():
        if isinstance(part, nn.Module):
            align(part)
    return AnimateDiffPipeline(unet=unet, motion_adapter=None, **parts)  # pyright: ignore[reportArgumentType]


def _write_folder(folder: PathLike, write: Callable[[Path], None], card: str | None) -> Path:
    # A sibling, synced, then renamed: a kill or a full disk never leaves half an adapter under the final name.
    folder = Path(folder)
    with saying_unwritable(folder):
        _fill_folder(folder, write, card)
    return folder


def _fill_folder(folder: Path, write: Callable[[Path], None], card: str | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.partial"):  # of a writer that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial") as scratch:
        place = Path(scratch) / "new"
        place.mkdir()
        write(place)
        if card is not None:
            (place / "README.md").write_text(card)
        for path in place.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner may read
        for path in [*place.iterdir(), place]:
            sync(path)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        place.rename(folder)
        shutil.rmtree(Path(scratch) / "old", ignore_errors=True)


def _json(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise LeanmotionError(f"adapter config: {error}: give evidence as plain JSON values") from error


def _per_level(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * levels
