"""Whether a base is whole. Libraries go on where it is not: with random weights, or a tokenizer that knows no word."""

import json
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.model.weights import WEIGHTS, base_files, base_variant
from leanmotion.pipeline.file_kinds import file_kind

_VOCABULARY = {"vocab.json", "merges.txt"}
_WHOLE = "get the whole folder"


def refuse_other_files(place: Path, name: str) -> None:
    """Refuse a base by the first bytes of its files, and a folder whose tokenizer has no vocabulary.

    Args:
        place: a pipeline's folder, or a single file.
        name: of the setting and the place, for the message.

    Raises:
        LeanmotionError: pointers, web pages and the like in the place of weights; a single file of something else.
    """
    for path in [place] if place.is_file() else [f for f in base_files(place) if f.suffix in WEIGHTS]:
        kind = file_kind(path)
        if kind is None or kind.name.startswith(("a safetensors", "a zip archive, as torch", "a pickle")):
            continue
        which = "" if path == place else f" {path.relative_to(place)}"
        raise LeanmotionError(f"{name}:{which} is {kind.name}: {kind.mend or 'get it again'}")
    if place.is_file():
        _refuse_other_checkpoints(place, name)
    elif "CLIP" in _class(place, "tokenizer")[1]:
        there = {path.name for path in (place / "tokenizer").glob("*")}
        if "tokenizer.json" not in there and not there >= _VOCABULARY:
            raise LeanmotionError(f"{name}: tokenizer/ has neither tokenizer.json nor vocab.json, merges.txt: {_WHOLE}")


def whole_text_encoder(folder: Path, name: str, options: dict[str, Any]) -> Any:
    """The text encoder of a pipeline's folder; None where its class is not of transformers.

    Loaded here, since transformers fills what a file lacks with random numbers, and tells that to its caller alone.

    Raises:
        LeanmotionError: a tensor is missing.
    """
    import transformers

    library, kind = _class(folder, "text_encoder")
    found = getattr(transformers, kind, None) if library == "transformers" else None
    if not hasattr(found, "from_pretrained"):
        return None
    variant, files = base_variant(folder), [f.name for f in base_files(folder) if f.parent.name == "text_encoder"]
    own = variant if variant and any(f".{variant}" in file for file in files) else None
    model, told = found.from_pretrained(folder / "text_encoder", variant=own, output_loading_info=True, **options)  # pyright: ignore[reportOptionalMemberAccess]
    if missing := sorted(told["missing_keys"]):
        raise LeanmotionError(f"{name}: text_encoder lacks {missing[0]}, one of {len(missing)} tensors: {_WHOLE}")
    return model


def refuse_gaps(base: Any, name: str) -> None:
    """Refuse a loaded pipeline whose files lack tensors: diffusers leaves them without values.

    Raises:
        LeanmotionError: as said.
    """
    for part in ("unet", "vae", "text_encoder"):
        empty = [key for key, value in getattr(base, part).state_dict().items() if value.is_meta]
        if empty:
            raise LeanmotionError(f"{name}: {part} lacks {empty[0]}, one of {len(empty)} tensors: {_WHOLE}")


def _refuse_other_checkpoints(file: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    from leanmotion.model.adapter_files import OTHER_KINDS, PLACE, refuse_others

    try:
        with safe_open(file, framework="pt") as tensors:
            keys = set(tensors.keys())
    except (SafetensorError, OSError):  # of torch, or damaged: loading says it
        return
    refuse_others(name, keys, OTHER_KINDS)
    if keys and all(PLACE.search(key) for key in keys):
        raise LeanmotionError(f"{name}: this is a motion module: name it as teacher.adapter")


def _class(folder: Path, part: str) -> tuple[str, str]:
    """Library and class of a part, by the folder's index; empty where it has none."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    library, kind = index.get(part) or ("", "")
    return str(library or ""), str(kind or "")
