"""Which image UNets a motion UNet can be made of. diffusers drops what it does not know, or stops somewhere inside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError

_GIVE = "give a base of Stable Diffusion 1.5's kind"


@dataclass(frozen=True)
class Plain:
    """A setting of `UNet2DConditionModel`, the value that motion UNets take it to have, and what others make of it."""

    setting: str
    value: Any
    otherwise: str


_TIME, _CLASS = "has another timestep embedding", "is conditioned on classes"
_ATTENTION, _RESNET = "has another kind of attention", "has another kind of resnet"
PLAIN = (
    Plain("mid_block_type", "UNetMidBlock2DCrossAttn", "has no middle block (as BK-SDM's tiny), or another kind of it"),
    Plain("addition_embed_type", None, "is told sizes or other texts (SDXL and its kin)"),
    Plain("encoder_hid_dim_type", None, "reads another text or picture encoder (DeepFloyd, Kandinsky, an IP-Adapter)"),
    Plain("encoder_hid_dim", None, "reads another text encoder (DeepFloyd, Kandinsky)"),
    Plain("time_cond_proj_dim", None, "is told the guidance (distilled as LCM): no AnimateDiff pipeline tells it"),
    Plain("class_embed_type", None, _CLASS),
    Plain("num_class_embeds", None, _CLASS),
    Plain("class_embeddings_concat", False, _CLASS),
    Plain("center_input_sample", False, "centres its inputs"),
    Plain("time_embedding_type", "positional", _TIME),
    Plain("time_embedding_dim", None, _TIME),
    Plain("time_embedding_act_fn", None, _TIME),
    Plain("timestep_post_act", None, _TIME),
    Plain("flip_sin_to_cos", True, _TIME),
    Plain("freq_shift", 0, _TIME),
    Plain("only_cross_attention", False, _ATTENTION),
    Plain("mid_block_only_cross_attention", None, _ATTENTION),
    Plain("dual_cross_attention", False, _ATTENTION),
    Plain("attention_type", "default", _ATTENTION),
    Plain("cross_attention_norm", None, _ATTENTION),
    Plain("resnet_time_scale_shift", "default", _RESNET),
    Plain("resnet_skip_time_act", False, _RESNET),
    Plain("act_fn", "silu", "has another activation, of which motion UNets take half"),
    Plain("resnet_out_scale_factor", 1.0, _RESNET),
    Plain("conv_in_kernel", 3, "has another first convolution"),
    Plain("conv_out_kernel", 3, "has another last convolution"),
)
"""What `UNetMotionModel` takes for granted. Not here: what changes precision (`upcast_attention`) or training alone."""
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
CHANNELS = {9: "an inpainting model", 8: "an instruct model (InstructPix2Pix), or one for depth or upscaling"}


def refuse_other_unets(base: Any, name: str) -> None:
    """Refuse a pipeline of whose UNet no motion UNet can be made, or whose parts do not fit one another.

    Args:
        base: a loaded pipeline.
        name: of the setting and the place, for the message.

    Raises:
        LeanmotionError: as said, in one line.
    """
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        if getattr(base, part, None) is None:
            raise LeanmotionError(f"{name} has no {part}: {_GIVE}")
    text = getattr(base.text_encoder.config, "hidden_size", None)
    _refuse(base.unet.config, base.vae.config["latent_channels"], text, name)


def refuse_other_configs(folder: Path, name: str) -> None:
    """The same by the config files of a pipeline's folder, before gigabytes are read; what they lack is passed."""
    unet, vae, text = (_config(folder / part) for part in ("unet", "vae", "text_encoder"))
    if unet.get("_class_name") == "UNet2DConditionModel" and "latent_channels" in vae:
        _refuse(unet, vae["latent_channels"], text.get("hidden_size", unet.get("cross_attention_dim")), name)


def _refuse(unet: Mapping[str, Any], latents: int, text: int | None, name: str) -> None:
    for key in ("in_channels", "out_channels"):
        if (count := unet.get(key, latents)) != latents:
            kind = CHANNELS.get(count, "of another kind") if key == "in_channels" else "of another kind"
            raise LeanmotionError(f"{name}: its UNet has {key} {count}, its VAE {latents}: it is {kind}: {_GIVE}")
    for plain in PLAIN:
        if not _is(value := unet.get(plain.setting, plain.value), plain.value):
            raise LeanmotionError(f"{name}: its UNet {plain.otherwise}: {plain.setting} is {value}: {_GIVE}")
    for key, known in BLOCKS.items():
        if other := [kind for kind in unet.get(key, ()) if kind not in known]:
            raise LeanmotionError(f"{name}: its UNet has {key} {other[0]}, no motion UNet has such: {_GIVE}")
    if not _is(wanted := unet.get("cross_attention_dim", text), text):
        raise LeanmotionError(
            f"{name}: its text encoder gives {text} channels, its UNet takes {wanted}: its parts are of two models"
        )


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading says it better
        return {}
    return found if isinstance(found, dict) else {}


def _is(value: Any, plain: Any) -> bool:
    """Also where it is said level by level."""
    return all(one == plain for one in value) if isinstance(value, list | tuple) else value == plain
