"""Less GPU memory for more time: settings of this machine, under diffusers' names, that change no result.

Weights that wait on the CPU and activations that are computed twice give the same numbers. What changes numbers
(`dtype`, `attention`, `vae_slicing`, `vae_tiling`, `torch_compile`, `distillation.accumulate`) stands in params.yaml.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from leanmotion.errors import LeanmotionError

OFFLOAD = "LEANMOTION_CPU_OFFLOAD"
CHECKPOINTING = "LEANMOTION_GRADIENT_CHECKPOINTING"


def place(pipeline: Any, device: str) -> Any:
    """The pipeline on its device; with `$LEANMOTION_CPU_OFFLOAD` its weights there only while they are used.

    `model` moves a network at a time, `sequential` a layer at a time (diffusers' `enable_model_cpu_offload` and
    `enable_sequential_cpu_offload`).

    Raises:
        LeanmotionError: Another value, or no GPU to save memory of.
    """
    how = os.environ.get(OFFLOAD, "")
    if not how:
        return pipeline.to(device)
    if how not in {"model", "sequential"}:
        raise LeanmotionError(f"{OFFLOAD} is {how!r}: say model or sequential, or unset it")
    if device == "cpu":
        raise LeanmotionError(f"{OFFLOAD} is {how!r}, and networks run on the CPU already: unset it")
    getattr(pipeline, f"enable_{how}_cpu_offload")(device=device)
    return pipeline


def settle(network: Any, device: str) -> Any:
    """A network on its device for good, whatever `place` has done with it."""
    if os.environ.get(OFFLOAD):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(network, recurse=True)
    return network.to(device)


@contextmanager
def recomputed(unet: Any) -> Iterator[None]:
    """With `$LEANMOTION_GRADIENT_CHECKPOINTING`, a backward pass computes activations again instead of keeping them.

    diffusers' `enable_gradient_checkpointing` leaves out the motion modules of a `UNetMotionModel`, but for the middle
    one: the others are done here.

    Raises:
        LeanmotionError: A value other than 0 and 1.
    """
    if (asked := os.environ.get(CHECKPOINTING, "0")) not in {"0", "1"}:
        raise LeanmotionError(f"{CHECKPOINTING} is {asked!r}: say 1 or 0, or unset it")
    if asked == "0":
        yield
        return
    import torch
    from torch.utils.checkpoint import checkpoint

    def twice(forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)

        return run

    blocks = [*unet.down_blocks, *unet.up_blocks]
    modules = [module for block in blocks for module in block.motion_modules]
    unet.enable_gradient_checkpointing()
    for module in modules:
        module.forward = twice(module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward
        unet.disable_gradient_checkpointing()
