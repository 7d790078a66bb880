"""Clips of bytes as networks take them: in batches, stretched, in exact float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from leanmotion.errors import LeanmotionError

Clips = UInt8[np.ndarray, "clips frames height width 3"]


def in_batches(
    clips: Clips, batch: int, device: str, forward: Callable[[Tensor], Tensor]
) -> Float32[np.ndarray, "clips features"]:
    """`forward` on float frames `[clips, frames, 3, height, width]` in [0, 255], in float32."""
    if len(clips) == 0:
        raise LeanmotionError("there are no clips to extract features of")
    parts = []
    with torch.inference_mode(), exact_float32(device):
        for start in range(0, len(clips), batch):
            part = torch.from_numpy(np.ascontiguousarray(clips[start : start + batch])).to(device)
            parts.append(forward(part.permute(0, 1, 4, 2, 3).float()).float().cpu().numpy())
    return np.concatenate(parts)


@contextmanager
def exact_float32(device: str) -> Iterator[None]:
    """TF32 and autocast off inside, the caller's settings back after."""
    kind = torch.device(device).type
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(kind, enabled=False),
            cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def signed(frames: Tensor) -> Tensor:
    """From [0, 255] to [-1, 1]."""
    return frames / 127.5 - 1.0


def stretched(frames: Tensor, size: int) -> Tensor:
    """`[clips, frames, 3, height, width]` to `[clips, frames, 3, size, size]`, bilinearly."""
    flat = interpolate(frames.flatten(0, 1), (size, size), mode="bilinear", align_corners=False, antialias=False)
    return flat.unflatten(0, frames.shape[:2])


def at_least_two(frames: int, name: str) -> None:
    """Refuse clips of a single frame."""
    if frames < 2:
        raise LeanmotionError(f"sampling.frames is {frames}: {name} takes 2 frames or more")
