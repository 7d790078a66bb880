"""A call's time by kind of kernel, as torch's profiler sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_KINDS = {
    "attention": ("flash", "fmha", "attention"),
    "convolutions": ("conv", "fprop", "implicit"),
    "matrix products": ("gemm", "cutlass", "nvjet", "sm90", "addmm", "bmm", "aten::mm", "linear"),
    "norms": ("norm", "rowwisemoments"),
    "compiled": ("triton", "cpp_fused"),
    "copies": ("copy", "cat", "transpose", "nchw", "memcpy", "clone", "contiguous"),
}
"""Parts of kernels' names, in the order in which they are looked for; all others are elementwise."""


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    lower = name.lower()
    return next((kind for kind, parts in _KINDS.items() if any(part in lower for part in parts)), "elementwise")


def milliseconds_by_kind(call: Callable[[], Any], *, gpu: bool) -> dict[str, float]:
    """Kind -> milliseconds in its kernels during one call, most first; without a GPU of operators on the CPU."""
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as seen:
        call()
        if gpu:
            torch.cuda.synchronize()
    found: dict[str, float] = {}
    for event in seen.key_averages():
        on_device = not str(event.device_type).endswith("CPU")
        took = event.self_device_time_total if gpu else event.self_cpu_time_total
        if took and on_device == gpu:
            found[kind_of(event.key)] = found.get(kind_of(event.key), 0.0) + took / 1e3
    return dict(sorted(found.items(), key=lambda item: -item[1]))
