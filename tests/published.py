"""Motion modules as published under the original's key names, spelled out."""

import torch

from leanmotion.model.motion_state import sinusoids

WIDTHS = (8, 8, 16, 16)


def published(*, mid: bool, length: int | None, widths=WIDTHS, seed: int = 0) -> dict[str, torch.Tensor]:
    """A file as published, spelled out: not one line of it comes from the code under test."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def put(key: str, *shape: int) -> None:
        state[key] = torch.randn(shape, generator=generator)

    def module(place: str, c: int) -> None:
        t = f"{place}.temporal_transformer"
        put(f"{t}.norm.weight", c)
        put(f"{t}.norm.bias", c)
        put(f"{t}.proj_in.weight", c, c)
        put(f"{t}.proj_in.bias", c)
        b = f"{t}.transformer_blocks.0"
        for i in (0, 1):
            a = f"{b}.attention_blocks.{i}"
            for name in ("to_q", "to_k", "to_v"):
                put(f"{a}.{name}.weight", c, c)
            put(f"{a}.to_out.0.weight", c, c)
            put(f"{a}.to_out.0.bias", c)
            if length:
                state[f"{a}.pos_encoder.pe"] = sinusoids(length, c)
        for i in (0, 1):
            put(f"{b}.norms.{i}.weight", c)
            put(f"{b}.norms.{i}.bias", c)
        put(f"{b}.ff.net.0.proj.weight", 8 * c, c)
        put(f"{b}.ff.net.0.proj.bias", 8 * c)
        put(f"{b}.ff.net.2.weight", c, 4 * c)
        put(f"{b}.ff.net.2.bias", c)
        put(f"{b}.ff_norm.weight", c)
        put(f"{b}.ff_norm.bias", c)
        put(f"{t}.proj_out.weight", c, c)
        put(f"{t}.proj_out.bias", c)

    for i, c in enumerate(widths):
        for j in (0, 1):
            module(f"down_blocks.{i}.motion_modules.{j}", c)
    if mid:
        module("mid_block.motion_modules.0", widths[-1])
    for i, c in enumerate(reversed(widths)):
        for j in (0, 1, 2):
            module(f"up_blocks.{i}.motion_modules.{j}", c)
    return state
