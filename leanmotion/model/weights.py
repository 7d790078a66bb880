"""Where weights lie, on disk or on the hub, and which of a folder's files loading reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.watched_paths import read_pin

CONFIGS = {".json", ".txt", ".model"}
WEIGHTS = {".safetensors", ".bin", ".ckpt", ".pth", ".pt"}
_STEM = "diffusion_pytorch_model"
_ADAPTER = (f"{_STEM}.safetensors", f"{_STEM}.bin")
_INDEX = re.compile(r"\.(?:safetensors|bin)\.index(?:\.(?P<variant>[\w-]+))?\.json$")
_SHARD = re.compile(r"-\d+-of-\d+")
_WHOLE = {"model_index.json": "a whole pipeline", "portable": "an export of leanmotion"}
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
    """The files that loading a pipeline's folder reads: a cache may hold others beside them, such as fp16 copies.

    Where it has to be loaded in a variant, those of that variant, and of parts without it the plain ones.
    """
    found, wanted = [folder / "model_index.json"], base_variant(folder)
    for part in _parts(folder):
        files = [f for f in sorted((folder / part).rglob("*")) if f.is_file() and not f.name.startswith(".")]
        told = {f: variant for f in files if (variant := _variant(f)) is not None}
        plain = [f for f, variant in told.items() if not variant]
        weights = _one_kind([f for f, v in told.items() if v and v == wanted]) or _one_kind(plain)
        found += [f for f in plain if f.suffix in CONFIGS and not _INDEX.search(f.name)] + weights
    return sorted(found)


def base_variant(folder: Path) -> str | None:
    """The variant that a pipeline's folder has to be loaded in, such as `fp16`; None where it holds plain weights.

    Raises:
        LeanmotionError: some part has no plain weights, and not all of these have one variant in common.
    """
    wanted: list[set[str]] = []
    for part in _parts(folder):
        there = {_variant(f) for f in (folder / part).rglob("*") if f.suffix in WEIGHTS and f.is_file()}
        if there and "" not in there:
            wanted.append({variant for variant in there if variant})
    if not wanted:
        return None
    common = set.intersection(*wanted)
    if len(common) != 1:
        names = ", ".join(sorted(set.union(*wanted)))
        raise LeanmotionError(f"teacher.base: {folder} holds no plain weights, and variants {names}: keep those of one")
    return common.pop()


def adapter_files(folder: Path) -> list[Path]:
    """The files that loading a motion adapter's folder reads: its config, and the plain weights before a variant.

    Of weights in shards their index, and all of them.

    Raises:
        LeanmotionError: it is no such folder, or weights are missing.
    """
    adapter_config(folder)
    what = f"motion adapter {folder}"
    files = [f for f in sorted(folder.iterdir()) if f.name.startswith(_STEM) and _variant(f) is not None]
    if not files:
        raise LeanmotionError(f"{what}: no {_STEM}.safetensors: get the whole folder")
    variants = {_variant(f) or "" for f in files}
    if "" not in variants and len(variants) > 1:
        raise LeanmotionError(f"{what}: holds no plain weights, and variants {', '.join(sorted(variants))}: keep one")
    chosen = _one_kind([f for f in files if _variant(f) == ("" if "" in variants else next(iter(variants)))])
    for index in [f for f in chosen if f.suffix == ".json"]:
        try:
            shards = {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise LeanmotionError(f"{what}: {index.name} lists no shards: get the whole folder") from error
        if missing := sorted(shards - set(chosen)):
            raise LeanmotionError(f"{what}: {missing[0].name} is missing: get the whole folder")
        chosen = [index, *sorted(shards)]
    return [folder / "config.json", *chosen]


def adapter_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a motion adapter's folder.

    Raises:
        LeanmotionError: there is none, or it is of something else.
    """
    what = f"motion adapter {folder}"
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = given.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        for name, part in (("model_index.json", "motion_adapter"), ("portable", "portable")):
            if (folder / name).exists():
                raise LeanmotionError(f"{what}: is {_WHOLE[name]}: name its {part} folder") from error
        single = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS) if folder.is_dir() else []
        mend = f", or name the file, as {single[0]}" if single else ""
        raise LeanmotionError(
            f"{what}: no readable config.json: get the whole folder of a diffusers MotionAdapter{mend}"
        ) from error
    if kind == "LeanMotionAdapter":
        raise LeanmotionError(
            f"{what}: this is a pruned adapter: load it with load_pruned_pipeline, or give the portable form as teacher"
        )
    if kind != "MotionAdapter":
        raise LeanmotionError(f"{what}: config.json is of a {kind}: give a diffusers MotionAdapter folder")
    if given.get("conv_in_channels"):
        raise LeanmotionError(f"{what}: this is a PIA adapter with its own conv_in: give a plain motion adapter")
    return given


def beside(file: Path, config: Mapping[str, Any]) -> bool:
    """Whether a motion module's file lies in a model's folder whose config tells other heads or norm groups."""
    try:
        given = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    names = ("motion_num_attention_heads", "motion_norm_num_groups")
    return isinstance(given, dict) and any(given.get(name, config[name]) != config[name] for name in names)


def _parts(folder: Path) -> list[str]:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return [k for k, v in index.items() if isinstance(v, list) and v[0] is not None and k not in _UNUSED]
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise LeanmotionError(
            f"teacher.base: {folder} holds no readable model_index.json: give a diffusers pipeline's folder, "
            "a single .safetensors file, or a pin of the hub"
        ) from error


def _variant(path: Path) -> str | None:
    """The variant in a file's name (`model.fp16.safetensors`), empty in a plain one; None for what loading never reads.

    As diffusers names them, shards (`model.fp16-00001-of-00002.safetensors`) and their index
    (`model.safetensors.index.fp16.json`) too.
    """
    if index := _INDEX.search(path.name):
        return index["variant"] or ""
    name = _SHARD.sub("", path.name)
    stem, _, variant = name.removesuffix(path.suffix).partition(".")
    if path.suffix not in WEIGHTS:
        return None if variant or not stem else ""
    return variant


def _one_kind(files: list[Path]) -> list[Path]:
    """Weights of the kind that loading prefers, with their index: a whole file before shards of the same kind."""
    for kind in (".safetensors", ".bin"):
        of_kind = [f for f in files if f.suffix == kind]
        whole = [f for f in of_kind if not _SHARD.search(f.name)]
        indices = [f for f in files if _INDEX.search(f.name) and f"{kind}.index." in f.name]
        if whole or of_kind:
            return whole or [*indices, *of_kind]
    return []


def commit_of(place: Path) -> str | None:
    """The hub's commit that a place in its cache belongs to; None for any other place."""
    found = re.search(r"/models--[^/]+/snapshots/([0-9a-f]{7,40})(?:/|$)", place.as_posix())
    return found.group(1) if found else None
