"""Stand-ins for code of others that takes the original's files: what of its interface exports rest on, no more.

`EvolvedModel` follows AnimateDiff-Evolved at d8d163c (animatediff/motion_module_ad.py; ComfyUI's ModelPatcher is
`Patcher`), `OriginalUNet` follows guoyww/AnimateDiff at e92bd56 (models/unet.py, unet_blocks.py, motion_module.py):
names of attributes, keys and arguments, which is called when, and that norms run over each frame by itself.
"""

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from models import seeded
from torch import Tensor, nn
from torch.nn import functional

HEADS, GROUPS = 2, 4


class Attention(nn.Module):
    def __init__(self, width: int, length: int, kept: bool) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])
        self.pos_encoder = nn.Module()
        self.pos_encoder.register_buffer("pe", torch.zeros(1, length, width), persistent=kept)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_encoder.pe[:, : x.shape[1]]  # pyright: ignore
        q, k, v = (f(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * functional.gelu(gate)


class Block(nn.Module):
    def __init__(self, width: int, length: int, kept: bool) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(Attention(width, length, kept) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(Gated(width), nn.Dropout(0.0), nn.Linear(4 * width, width))
        self.ff_norm = nn.LayerNorm(width)
        self.cc_projection: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = attention(norm(x)) + x
        return self.ff.net(self.ff_norm(x)) + x  # pyright: ignore


class TemporalTransformer(nn.Module):
    """Shapes as in both: [batch * frames, channels, height, width] in and out. Its `proj_out` starts from zero."""

    def __init__(self, width: int, length: int, kept: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([Block(width, length, kept)])
        self.proj_out = nn.Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)
        self.video_length = 16
        self.calls = 0

    def forward(self, hidden_states: Tensor, *args: Any) -> Tensor:
        self.calls += 1
        frames, (_, _, height, width) = self.video_length, hidden_states.shape
        x = self.proj_in(self.norm(hidden_states).flatten(2).transpose(1, 2))
        x = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)  # (batch * places) frames channels
        x = self.transformer_blocks[0](x)
        x = x.unflatten(0, (-1, height * width)).transpose(1, 2).flatten(0, 1)
        return self.proj_out(x).transpose(1, 2).unflatten(2, (height, width)).contiguous() + hidden_states


# AnimateDiff-Evolved


class EvolvedTransformer(TemporalTransformer):
    def set_video_length(self, video_length: int, full_length: int) -> None:
        self.video_length = video_length

    def set_scale(self, scale: Any, per_block_list: Any = None) -> None:
        self.scale = scale

    def set_cameractrl_effect(self, multival: Any) -> None:
        self.cameractrl_effect = multival

    def set_sub_idxs(self, sub_idxs: list[int] | None) -> None:
        self.sub_idxs = sub_idxs

    def reset_temp_vars(self) -> None:
        self.cameractrl_effect = None


class VanillaTemporalModule(nn.Module):
    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.effect: float | Tensor | None = None
        self.img_features: Tensor | None = None
        self.temporal_transformer = EvolvedTransformer(width, length, kept=True)

    def forward(
        self, input_tensor: Tensor, encoder_hidden_states: Any = None, transformer_options: Any = None
    ) -> Tensor:
        if isinstance(self.effect, float) and math.isclose(self.effect, 0.0):
            return input_tensor
        if self.img_features is not None:
            input_tensor = input_tensor + self.img_features
        out = self.temporal_transformer(input_tensor, encoder_hidden_states, None, None, None, transformer_options)
        return out if self.effect is None else input_tensor * (1.0 - self.effect) + out * self.effect


class Stack(nn.Module):
    def __init__(self, widths: list[int], length: int) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList(VanillaTemporalModule(width, length) for width in widths)


class EvolvedModel(nn.Module):
    """Loads strictly, as `verify_load_result` does; a file without `mid_block` keys makes a model without one."""

    def __init__(self, state: Mapping[str, Tensor], widths: tuple[int, ...]) -> None:
        super().__init__()
        length = next(value.shape[1] for key, value in state.items() if key.endswith("pos_encoder.pe"))
        self.down_blocks = nn.ModuleList(Stack([w] * 2, length) for w in widths)
        self.up_blocks = nn.ModuleList(Stack([w] * 3, length) for w in reversed(widths))
        has_mid = any(key.startswith("mid_block.") for key in state)
        self.mid_block = Stack([widths[-1]], length) if has_mid else None
        self.load_state_dict(state)

    @property
    def modules_in_order(self) -> list[Any]:
        stacks: list[Any] = [*self.down_blocks, *([self.mid_block] if self.mid_block else ()), *self.up_blocks]
        return [module for stack in stacks for module in stack.motion_modules]

    def set_per_block(self, floats: list[float]) -> None:
        """What "AD Per Block Floats (SD1.5)" comes to: 21 effects, the mid block's the ninth."""
        assert len(floats) == 21
        if self.mid_block is None:
            floats = floats[:8] + floats[9:]
        for module, effect in zip(self.modules_in_order, floats, strict=True):
            module.effect = None if math.isclose(effect, 1.0) else effect

    def sample_step(self, frames: int, clips: list[Tensor]) -> list[Tensor]:
        """Every call that a step makes on temporal transformers, and each module's output on its input."""
        for module in self.modules_in_order:
            transformer = module.temporal_transformer
            transformer.set_scale(None, None)
            transformer.set_cameractrl_effect(1.0)
            transformer.set_sub_idxs(list(range(frames)))
            transformer.set_video_length(frames, frames)
        assert self.down_blocks[0].motion_modules[0].temporal_transformer.transformer_blocks[0].cc_projection is None  # pyright: ignore
        found = [
            module(clip, None, transformer_options={})
            for module, clip in zip(self.modules_in_order, clips, strict=True)
        ]
        for module in self.modules_in_order:
            module.temporal_transformer.reset_temp_vars()
        return found


class Patcher:
    """ComfyUI's `ModelPatcher`: clones share model and backup; a size of 0 is counted when it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.backup, self.size = model, {}, 0

    def clone(self) -> "Patcher":
        return copy.copy(self)

    def model_size(self) -> int:
        if not self.size:
            self.size = sum(value.nbytes for value in self.model.state_dict().values())
        return self.size


def value_schedule(text: str) -> list[float]:
    """Evolved's node "Value Scheduling", of single indices: `index = value` between commas."""
    pairs = re.findall(r"([\d:\-\.]+)\s*=\s*([^,]+)(?:\s*,\s*|$)", text)
    assert [int(i) for i, _ in pairs] == list(range(len(pairs)))
    return [float(value) for _, value in pairs]


# AnimateDiff's own code


class OriginalModule(nn.Module):
    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(width, length, kept=False)

    def forward(self, input_tensor: Tensor, temb: Any, encoder_hidden_states: Any) -> Tensor:
        """[batch, channels, frames, height, width] -> the same."""
        self.temporal_transformer.video_length = frames = input_tensor.shape[2]
        out = self.temporal_transformer(input_tensor.transpose(1, 2).flatten(0, 1))
        return out.unflatten(0, (-1, frames)).transpose(1, 2)


class OriginalBlock(nn.Module):
    def __init__(self, widths: list[int | None], length: int) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList(w and OriginalModule(w, length) for w in widths)  # pyright: ignore

    def forward(self, x: Tensor) -> Tensor:
        for module in self.motion_modules:
            x = module(x, None, encoder_hidden_states=None) if module is not None else x
        return x


class OriginalUNet(nn.Module):
    """The blocks of the UNet with nothing in them but motion modules; without `mid`, the mid block holds None."""

    def __init__(self, widths: tuple[int, ...], length: int, mid: bool) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(OriginalBlock([w] * 2, length) for w in widths)
        self.mid_block = OriginalBlock([widths[-1] if mid else None], length)
        self.up_blocks = nn.ModuleList(OriginalBlock([w] * 3, length) for w in reversed(widths))

    @property
    def blocks(self) -> list[Any]:
        return [*self.down_blocks, self.mid_block, *self.up_blocks]

    def load_weights(self, file: Mapping[str, Tensor]) -> None:
        """As animatediff/utils/util.py does: without positions, not strict; nothing unexpected."""
        state = {k: v for k, v in file.items() if "motion_modules." in k and "pos_encoder.pe" not in k}
        assert not self.load_state_dict(state, strict=False).unexpected_keys


def original_unet(widths: tuple[int, ...], length: int, mid: bool, seed: int) -> OriginalUNet:
    return seeded(seed, lambda: OriginalUNet(widths, length, mid)).eval()
