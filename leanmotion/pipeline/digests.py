"""SHA-256 of files, of weights in memory, and of plain values."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanmotion.pipeline.setting_address import added

if TYPE_CHECKING:
    from torch import Tensor, nn


LARGE = 2**24
"""Bytes from which on a file is not read twice: what is smaller takes no longer than looking a digest up."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; of large ones read once a run (`leanmotion.pipeline.known_digests`)."""
    if added(path.stat().st_size >= LARGE):
        from leanmotion.pipeline.known_digests import known_sha256

        return known_sha256(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_digest(values: Any) -> str:
    """SHA-256 of JSON values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def weights_digest(module: "nn.Module") -> str:
    """SHA-256 over names, types, shapes and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: "Tensor") -> memoryview:
    """The values of a tensor of any type, as they lie in memory."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
