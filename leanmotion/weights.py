"""Weights, pinned by the sha256 of the file and the commit of a hub id; and where they lie in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from leanmotion.errors import LeanmotionError

ALIGNMENT = 64
"""Bytes: what torch's own allocator keeps, and what oneMKL asks for where results are to be reproducible."""


def align(module: nn.Module) -> None:
    """Move weights on the CPU that lie at odd addresses into memory of torch's own; values stay.

    Weights mapped from a file lie wherever its header ends, and matrix kernels choose their path by the address: the
    same weights from another file, or in memory, then differ by some 1e-7 in what they give. Parameters of two modules
    that share memory are parted: align before sharing.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
