"""An Apple GPU where there is none: tensors that say that they are on `mps`, computed on the CPU, without float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DEVICE = torch.Tensor.device.__get__  # pyright: ignore[reportAttributeAccessIssue]


class OnMps(torch.Tensor):
    """Ordinary numbers; what is computed with them is there too."""


class _Pretending(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        there = any(isinstance(x, OnMps) for x in _flat((args, kwargs)))
        if func == _DEVICE and there:
            return torch.device("mps")
        if func is torch.Tensor.cpu or (func is torch.Tensor.to and _named(args[1:], kwargs) == "cpu"):
            moved = func(args[0].as_subclass(torch.Tensor), *args[1:], **kwargs)
            return moved
        asked = _named(args if func is not torch.Tensor.to else args[1:], kwargs) == "mps"
        if asked:
            args, kwargs = _on_cpu(args), {k: _on_cpu(v) for k, v in kwargs.items()}
        made = func(*args, **kwargs)
        if func in (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.numpy) or not (there or asked):
            return made
        return _moved(made)


def _moved(made: Any) -> Any:
    if isinstance(made, torch.nn.Parameter):
        return made
    if isinstance(made, torch.Tensor):
        if made.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return made.as_subclass(OnMps)
    return type(made)(map(_moved, made)) if type(made) in (tuple, list) else made


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, tuple | list):
        for value in values:
            yield from _flat(value)
    else:
        yield values


def _named(args: Any, kwargs: dict[str, Any]) -> str:
    """The kind of device that a call names."""
    for value in (kwargs.get("device"), *args):
        if isinstance(value, torch.device) or (isinstance(value, str) and value in ("mps", "cpu")):
            return torch.device(value).type
    return ""


def _on_cpu(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_on_cpu, value))
    is_mps = (isinstance(value, torch.device) and value.type == "mps") or (isinstance(value, str) and value == "mps")
    return "cpu" if is_mps else value


@contextmanager
def pretended_mps() -> Iterator[None]:
    """While open, tensors go to `mps` and stay there. Weights do not: they count as being wherever they are used."""
    with _Pretending():
        yield
