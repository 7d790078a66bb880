"""Where weights lie, on disk or on the hub, and which of a folder's files loading reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.watched_paths import read_pin

CONFIGS = {".json", ".txt", ".model"}
WEIGHTS = {".safetensors", ".bin", ".ckpt", ".pth", ".pt"}
_ADAPTER = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Parts of a pipeline's folder that are neither loaded nor, from the hub, fetched.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def locate(path: str, *, role: Literal["base", "adapter"]) -> Path:
    """A path as it is; of a pin, the place of its model in the hub's cache, fetched if need be.

    Of `owner/name` only those files are fetched that loading reads; `owner/name/file.safetensors` is one file in it.
    Cache, tokens and `HF_HUB_OFFLINE` are the hub's own.

    Raises:
        LeanmotionError: Neither there nor to be had.
    """
    if not Path(path).exists():
        raise LeanmotionError(
            f"teacher.{role}: {path} is missing: restore it (`git checkout`, `dvc pull`) or mend the path"
        )
    pin = read_pin(path, f"teacher.{role}")
    if pin is None:
        return Path(path)
    from huggingface_hub import constants, hf_hub_download

    owner, name, *file = pin.hub.split("/")
    try:
        if file:
            return Path(hf_hub_download(f"{owner}/{name}", "/".join(file), revision=pin.revision))
        return _fetch_base(pin.hub, pin.revision) if role == "base" else _fetch_adapter(pin.hub, pin.revision)
    except Exception as error:  # offline, no such model, no rights: the hub has a class for each
        if constants.HF_HUB_OFFLINE:
            mend = "HF_HUB_OFFLINE is set, and the hub's cache lacks it: fetch it once online, or name a folder"
        else:
            mend = " ".join(str(error).split())[:200]
        at = f" at {pin.revision}" if pin.revision else ""
        raise LeanmotionError(
            f"teacher.{role}: {pin.hub}{at} ({path}) is not to be had from the hub: {mend}"
        ) from error


def _fetch_base(name: str, revision: str | None) -> Path:
    """As diffusers does: of each part the config and one kind of weights, not the whole repository."""
    from diffusers import StableDiffusionPipeline
    from huggingface_hub import constants

    options = {"trust_remote_code": False, "local_files_only": constants.HF_HUB_OFFLINE, **dict.fromkeys(_UNUSED)}
    return Path(StableDiffusionPipeline.download(name, revision=revision, **options))


def _fetch_adapter(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    config = Path(hf_hub_download(name, "config.json", revision=revision))
    try:
        hf_hub_download(name, _ADAPTER[0], revision=revision)
    except (EntryNotFoundError, LocalEntryNotFoundError):
        hf_hub_download(name, _ADAPTER[1], revision=revision)
    return config.parent


def base_files(folder: Path) -> list[Path]:
    """The files that loading a pipeline's folder reads: a cache may hold others beside them, such as fp16 copies."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = [k for k, v in index.items() if isinstance(v, list) and v[0] is not None and k not in _UNUSED]
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise LeanmotionError(
            f"teacher.base: {folder} holds no readable model_index.json: give a diffusers pipeline's folder, "
            "a single .safetensors file, or a pin of the hub"
        ) from error
    found = [folder / "model_index.json"]
    for part in parts:
        files = [f for f in sorted((folder / part).rglob("*")) if f.is_file() and not f.name.startswith(".")]
        # A second dot tells a variant: `model.fp16.safetensors`; but `….safetensors.index.json` lists shards.
        plain = [f for f in files if f.name.removesuffix(".safetensors.index.json").count(".") <= 1]
        kinds = [[f for f in plain if f.suffix == suffix] for suffix in (".safetensors", ".bin")]
        found += [f for f in plain if f.suffix in CONFIGS] + next((weights for weights in kinds if weights), [])
    return sorted(found)


def adapter_files(folder: Path) -> list[Path]:
    """The files that loading a motion adapter's folder reads: its config, and the plain weights before a variant."""
    stem = "diffusion_pytorch_model"
    weights = [p for suffix in ("safetensors", "bin") for p in sorted(folder.glob(f"{stem}*.{suffix}"))]
    if not weights:
        raise LeanmotionError(f"motion adapter {folder}: no {stem}.safetensors: get the whole folder")
    return [folder / "config.json", min(weights, key=lambda p: (p.suffix == ".bin", len(p.name)))]


def commit_of(place: Path) -> str | None:
    """The hub's commit that a place in its cache belongs to; None for any other place."""
    found = re.search(r"/models--[^/]+/snapshots/([0-9a-f]{7,40})(?:/|$)", place.as_posix())
    return found.group(1) if found else None
