"""Which image UNets a motion UNet can be made of. diffusers drops what it does not know, or stops somewhere inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leanmotion.errors import LeanmotionError

_GIVE = "give a base of Stable Diffusion 1.5's kind"


@dataclass(frozen=True)
class Plain:
    """A setting of `UNet2DConditionModel`, the value that motion UNets take it to have, and what others make of it."""

    setting: str
    value: Any
    otherwise: str


_TIME, _CLASS = "another timestep embedding", "conditioned on classes"
_ATTENTION, _RESNET = "another kind of attention", "another kind of resnet"
PLAIN = (
    Plain("mid_block_type", "UNetMidBlock2DCrossAttn", "no middle block (as BK-SDM's tiny), or another kind of it"),
    Plain("addition_embed_type", None, "told sizes or other texts (SDXL and its kin)"),
    Plain("encoder_hid_dim_type", None, "another text or picture encoder (DeepFloyd, Kandinsky, an IP-Adapter)"),
    Plain("encoder_hid_dim", None, "another text encoder (DeepFloyd, Kandinsky)"),
    Plain("time_cond_proj_dim", None, "told the guidance (distilled as LCM), which no AnimateDiff pipeline tells it"),
    Plain("class_embed_type", None, _CLASS),
    Plain("num_class_embeds", None, _CLASS),
    Plain("class_embeddings_concat", False, _CLASS),
    Plain("center_input_sample", False, "inputs that it centres"),
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
    Plain("resnet_out_scale_factor", 1.0, _RESNET),
    Plain("conv_in_kernel", 3, "another first convolution"),
    Plain("conv_out_kernel", 3, "another last convolution"),
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
    unet: Mapping[str, Any] = base.unet.config
    latents = base.vae.config["latent_channels"]
    for key in ("in_channels", "out_channels"):
        if (count := unet[key]) != latents:
            kind = CHANNELS.get(count, "of another kind") if key == "in_channels" else "of another kind"
            raise LeanmotionError(f"{name}: its UNet has {key} {count}, its VAE {latents}: it is {kind}: {_GIVE}")
    for plain in PLAIN:
        if not _is(unet.get(plain.setting, plain.value), plain.value):
            what = f"{plain.setting} {unet[plain.setting]}: it has {plain.otherwise}"
            raise LeanmotionError(f"{name}: its UNet has {what.replace('it has told', 'it is told')}: {_GIVE}")
    for key, known in BLOCKS.items():
        if other := [kind for kind in unet[key] if kind not in known]:
            raise LeanmotionError(f"{name}: its UNet has {key} {other[0]}, no motion UNet has such: {_GIVE}")
    width, wanted = getattr(base.text_encoder.config, "hidden_size", None), unet["cross_attention_dim"]
    if not _is(wanted, width):
        raise LeanmotionError(
            f"{name}: its text encoder gives {width} channels, its UNet takes {wanted}: its parts are of two models"
        )


def _is(value: Any, plain: Any) -> bool:
    """Also where it is said level by level."""
    return all(one == plain for one in value) if isinstance(value, list | tuple) else value == plain
