"""An extractor's files: fetched at a commit, and pinned by their SHA-256."""

import hashlib
from pathlib import Path

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.digests import file_sha256


def snapshot(path: str, revision: str | None) -> Path:
    """The folder itself, or that of a hub id at a commit: its config and safetensors, fetched if need be.

    Raises:
        LeanmotionError: no folder and no revision, or it cannot be fetched.
    """
    if Path(path).is_dir():
        return Path(path)
    if revision is None:
        raise LeanmotionError(f"extractor.path {path} is no folder: a hub id takes extractor.revision, a commit")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=["config.json", "*.safetensors"]))
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise LeanmotionError(f"extractor.path {path}, revision {revision}: cannot be fetched: {line}") from error


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
