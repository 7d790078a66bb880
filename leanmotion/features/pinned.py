"""An extractor's files: fetched at a commit, and pinned by their SHA-256."""

import hashlib
from pathlib import Path

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.digests import file_sha256
from leanmotion.pipeline.watched_paths import read_pin

MODEL = ("config.json", "*.safetensors")
"""What is fetched of a model of the hub: its config and weights."""


def snapshot(path: str, setting: str = "extractor.path", files: tuple[str, ...] = MODEL) -> Path:
    """The folder itself, or that of a pin's model at its commit, fetched if need be.

    Args:
        path: of the folder, or of the pin.
        setting: that names it, for the message.
        files: what to fetch, as patterns.

    Raises:
        LeanmotionError: neither a folder nor a pin with a commit, or it cannot be fetched.
    """
    if Path(path).is_dir():
        return Path(path)
    pin = read_pin(path, setting)
    if pin is None:
        raise LeanmotionError(f"{setting}: {path} is neither a folder nor a pin of the hub, as in presets/hub/")
    if pin.revision is None:
        # Of the teacher data/teacher.json keeps the hash of every file; nothing keeps the extractor's.
        raise LeanmotionError(f"{setting}: {path} names no commit: write one as `revision`")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(pin.hub, revision=pin.revision, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise LeanmotionError(f"{setting}: {pin.hub} at {pin.revision} ({path}) is not to be had: {line}") from error


def checked_digest(path: Path, expected: str | None) -> str:
    """sha256 of a file, in hex. Raises LeanmotionError where it is missing or not the expected one."""
    if not path.is_file():
        raise LeanmotionError(f"extractor.path: {path} is missing")
    digest = file_sha256(path)
    _same(digest, expected, path)
    return digest


def joint_digest(files: list[Path], expected: str | None) -> str:
    """One sha256 for weights in several files: of their sha256 in hex, joined in the order of names."""
    digest = hashlib.sha256("".join(checked_digest(file, None) for file in files).encode()).hexdigest()
    _same(digest, expected, files[0].parent)
    return digest


def _same(digest: str, expected: str | None, path: Path) -> None:
    if expected is not None and digest != expected:
        raise LeanmotionError(
            f"{path} has sha256 {digest}, expected {expected}: point extractor.path at that file, or, if you trust "
            "this one, set extractor.sha256 to its own (numbers then are not the FVD of papers)"
        )
