"""The teacher's untrained networks: Stable Diffusion 1.5's and AnimateDiff v2's topologies at small width."""

from __future__ import annotations

from diffusers import DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import nn
from transformers import CLIPTextModel

from leanmotion.sprites_training.recipe import Recipe


def new_scheduler(recipe: Recipe) -> DDIMScheduler:
    """AnimateDiff's noise schedule; few steps start from the last timestep and end in the picture itself."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        steps_offset=1,
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type=recipe.prediction_type,
    )


def new_unet(recipe: Recipe) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's topology at small width, with its levels without cross-attention at the other end.

    On the largest maps there is no caption, and no view of the whole picture: what is where has to be worked out on
    smaller ones. Motion modules of the second level have most of the work then; below it they stay idle
    (docs/teacher-trials.md).
    """
    return UNet2DConditionModel(
        sample_size=recipe.size // recipe.vae_factor,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        block_out_channels=recipe.unet_channels,
        layers_per_block=2,
        norm_num_groups=recipe.unet_groups,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=recipe.unet_heads,
    )


def new_adapter(recipe: Recipe) -> MotionAdapter:
    """A v2 motion adapter (21 blocks) for the recipe's UNet.

    AnimateDiff starts each block as the identity, since its picture network is frozen. Here both learn together, and
    blocks that speak from the first step are listened to: with zeroed `proj_out` most stayed silent.
    """
    return MotionAdapter(
        block_out_channels=recipe.unet_channels,
        motion_layers_per_block=2,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=recipe.motion_heads,
        motion_norm_num_groups=recipe.unet_groups,
        motion_max_seq_length=32,
        use_motion_mid_block=True,
    )


class CaptionedVideo(nn.Module):
    """The two networks that learn together, as one module."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNetMotionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet


def plain_unet(unet: UNetMotionModel, recipe: Recipe) -> UNet2DConditionModel:
    """The picture network inside a video network: all its weights but the motion modules'."""
    plain = new_unet(recipe)
    state = unet.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain.eval().requires_grad_(False)
