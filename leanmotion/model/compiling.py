"""What a motion UNet repeats, compiled whole: norms, activations and layout changes fuse with what lies around them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

from leanmotion.errors import LeanmotionError
from leanmotion.model.removal import LeanTransformerBlock, Skip
from leanmotion.pipeline.processes import device

REPEATED = ("ResnetBlock2D", "Transformer2DModel", "AnimateDiffTransformer3D", "Downsample2D", "Upsample2D")
"""Residual blocks, spatial and temporal transformers, changes of size; by class."""

_VERSIONS = 256
"""Of the code of one class: a version for each width, size, batch, type and precision."""


def check_compiler(wanted: bool) -> None:
    """Refuse to compile for a CPU without a C++ compiler, before any work.

    Raises:
        LeanmotionError: There is none.
    """
    if not wanted or device().startswith("cuda"):
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise LeanmotionError(
            "sampling.torch_compile is true, and there is no compiler: install one (g++), or set it to false"
        ) from error


def compile_modules(unet: nn.Module, backend: str = "inductor") -> None:
    """Compile all that a `UNetMotionModel` repeats, in place; a second time changes nothing.

    Whole modules, not the whole UNet: where a motion module is removed, a `Skip` is called in its place, and all that
    is compiled stays valid. Modules of one shape share their code.

    Raises:
        LeanmotionError: There is no compiler.
    """
    import torch._dynamo

    check_compiler(backend == "inductor")
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _VERSIONS)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, _VERSIONS)
    # Else what is beyond the limit would run uncompiled without a word, and give other bits.
    limits.fail_on_recompile_limit_hit = True
    for module in unet.modules():
        if type(module).__name__ not in REPEATED:
            continue
        if "forward" not in module.__dict__:
            module.forward = CompiledForward(module, backend)
        if isinstance(module.forward, CompiledForward):
            for part in module.modules():  # `compile_blocks` was here: where the whole runs uncompiled, all of it does
                part._compiled_call_impl = None


class CompiledForward:
    """Stands for `forward` of a module; hooks on the module itself run around it.

    A module runs uncompiled where a unit inside it was removed, where anything inside it has a hook, which compiled
    code would pass over without a word, and where its weights are moved on demand.
    """

    def __init__(self, module: nn.Module, backend: str) -> None:
        self.module, self.backend = module, backend

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own `forward`."""
        kind = type(self.module)
        run = kind.forward if _looked_into(self.module) else _compiled(kind, self.backend)
        return run(self.module, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledForward:
        """That of the copied module."""
        return CompiledForward(copy.deepcopy(self.module, memo), self.backend)


@contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """While it lasts, a module runs as it is written; nothing is compiled anew afterwards."""
    handles = [child.register_forward_pre_hook(lambda *_: None) for child in list(module.children())[:1]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _looked_into(module: nn.Module) -> bool:
    inside = module.modules()
    next(inside)
    return any(
        m._forward_hooks or m._forward_pre_hooks or hasattr(m, "_hf_hook") or isinstance(m, Skip | LeanTransformerBlock)
        for m in inside
    )


@cache
def _compiled(kind: type[nn.Module], backend: str) -> Callable[..., Any]:
    """A class's `forward`, compiled for each shape by itself: the code of one does not depend on those before it."""
    import torch

    return torch.compile(kind.forward, backend=backend, dynamic=False)
