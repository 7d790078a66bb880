"""The motion modules of a model as configuration and tensors, in the shape they have and in the full one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leanmotion.errors import LeanmotionError


def motion_config(model: nn.Module) -> dict[str, Any]:
    """The arguments of a `diffusers.MotionAdapter` with the motion modules that `model` had before any removal.

    Args:
        model: a `UNetMotionModel` or a `MotionAdapter`. A `UNetMotionModel` builds its motion modules with the
            UNet's own `norm_num_groups`, whatever the adapter's config said, so that is the number given.
    """
    config: Mapping[str, Any] = getattr(model, "config")  # noqa: B009  (nn.Module types it as a tensor)
    if "norm_num_groups" not in config:
        names = [name for name in config if not name.startswith("_")]
        return {name: plain(config[name]) for name in names}
    return {
        "block_out_channels": plain(config["block_out_channels"]),
        "motion_layers_per_block": plain(config["layers_per_block"]),
        "motion_transformer_layers_per_block": plain(config["temporal_transformer_layers_per_block"]),
        "motion_mid_block_layers_per_block": config["mid_block_layers"],
        "motion_transformer_layers_per_mid_block": plain(config["temporal_transformer_layers_per_mid_block"]),
        "motion_num_attention_heads": plain(config["motion_num_attention_heads"]),
        "motion_norm_num_groups": config["norm_num_groups"],
        "motion_max_seq_length": config["motion_max_seq_length"],
        "use_motion_mid_block": config["use_motion_mid_block"],
        "conv_in_channels": None,
    }


def motion_state(model: nn.Module) -> dict[str, Tensor]:
    """What is left of the motion modules: state dict keys to tensors, shared with `model`."""
    return {key: value for key, value in model.state_dict().items() if ".motion_modules." in key}


def full_motion_state(model: nn.Module) -> dict[str, Tensor]:
    """The motion modules in full shape: what was removed is there again, and does exactly nothing.

    All tensors of a removed unit are zero. A zero `proj_out`, `to_out` or last feed-forward layer adds zero to its
    residual stream, exactly, and zero norms give zero and no NaN; zeros also compress to nothing. Only the
    positional embeddings are the sinusoids they always are.

    Returns:
        The state dict of a `MotionAdapter(**motion_config(model))`, tensors shared with `model` where it has them.
    """
    state, shapes = motion_state(model), expected_shapes(motion_config(model))
    check_keys("the UNet's motion modules", {key: tuple(t.shape) for key, t in state.items()}, shapes, partly=True)
    # Of an adapter without any block nothing is left that has a type.
    some = next(iter(state.values()), next(model.parameters(), None))
    dtype = torch.float32 if some is None else some.dtype
    full = {}
    for key, shape in shapes.items():
        if key not in state:
            absent = sinusoids(shape[1], shape[2]) if key.endswith("pos_embed.pe") else torch.zeros(shape)
            state[key] = absent.to(dtype)
        full[key] = state[key]
    return full


def sinusoids(length: int, channels: int) -> Tensor:
    """The positional embedding of AnimateDiff, float32 [1, length, channels], as diffusers computes it."""
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    return SinusoidalPositionalEmbedding(channels, max_seq_length=length).get_buffer("pe")


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the state dict of `MotionAdapter(**config)`; takes no memory for weights."""
    from diffusers import MotionAdapter

    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in MotionAdapter(**config).state_dict().items()}


def odd_heads(config: Mapping[str, Any]) -> bool:
    """Whether attention heads are no numbers that divide the widths: diffusers would stop somewhere inside."""
    heads, widths = config.get("motion_num_attention_heads", 8), config.get("block_out_channels", ())
    each = heads if isinstance(heads, list | tuple) else [heads] * len(widths)
    return any(not isinstance(n, int) or n < 1 or width % n for n, width in zip(each, widths, strict=False))


def check_keys(
    what: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    partly: bool = False,
) -> None:
    """Raises `LeanmotionError` where keys or shapes are not the expected ones; `partly` allows missing keys."""
    missing = [] if partly else [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    wrong = [key for key in found if key in expected and found[key] != expected[key]]
    if missing:
        raise LeanmotionError(f"{what}: {len(missing)} tensors are missing, first {missing[0]}: get a whole file")
    if unknown:
        raise LeanmotionError(f"{what}: {len(unknown)} tensors fit no motion module of this size, first {unknown[0]}")
    if wrong:
        key = wrong[0]
        raise LeanmotionError(f"{what}: {key} has shape {list(found[key])}, expected {list(expected[key])}")


def portable_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: on the CPU, contiguous, no two sharing memory."""
    tensors, seen = {}, set()
    for key, value in state.items():
        value = value.detach().to("cpu").contiguous()
        tensors[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return tensors


def plain(value: Any) -> Any:
    """Tuples as lists, at any depth: what a value looks like after a round trip through JSON."""
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
