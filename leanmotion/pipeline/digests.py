"""SHA-256 of files, of weights in memory, and of code."""

import ast
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def code_digest(*modules: str) -> str:
    """SHA-256 of what modules of this package compute: of their code without comments, docstrings and layout."""
    code = hashlib.sha256()
    for name in modules:
        spec = find_spec(f"leanmotion.{name}")
        assert spec is not None and spec.origin is not None
        code.update(_code(Path(spec.origin).read_text(encoding="utf-8")).encode())
    return code.hexdigest()


def _code(source: str) -> str:
    """Source as a syntax tree without docstrings: comments and layout change no frame."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return ast.dump(tree)
