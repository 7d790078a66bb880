"""All settings of the sprites world's training, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Sizes, then one group per training run, in the order in which they run."""

    size: int = 64
    frames: int = 8
    seed: int = 20
    threads: int = 2

    # Autoencoder: four levels, so a factor of 8.
    vae_channels: tuple[int, ...] = (16, 24, 48, 64)
    vae_groups: int = 4
    vae_steps: int = 1500
    vae_batch: int = 32
    vae_rate: float = 3e-3
    vae_kl: float = 3e-4
    vae_clips_per_caption: int = 16
    foreground_weight: float = 4.0

    # Text encoder.
    text_width: int = 64
    text_layers: int = 2
    text_heads: int = 4
    text_length: int = 16

    # UNet.
    unet_channels: tuple[int, ...] = (32, 48, 80, 80)
    unet_groups: int = 8
    unet_heads: int = 2
    motion_heads: int = 4

    # Diffusion, as AnimateDiff has it but for the prediction type: few steps start from nearly pure noise, where an
    # epsilon network's errors in the picture are multiplied by 25.
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"

    # Pictures and clips together: the motion modules at the smallest maps open first, then 4 x 4, then 8 x 8.
    clips_per_caption: int = 48
    image_steps: int = 500
    image_batch: int = 128
    image_every: int = 4
    open_at: tuple[int, ...] = (500, 1400, 2300)
    joint_steps: int = 4200
    motion_batch: int = 16
    rate: float = 2e-3
    caption_dropout: float = 0.08
    word_dropout: float = 0.1

    # Reader: the network that reads colour, shape and motion off a clip.
    reader_width: int = 24
    reader_features: int = 64
    reader_steps: int = 1200
    reader_clips_per_caption: int = 16
    reader_latent_noise: float = 0.15
    reader_batch: int = 32
    reader_rate: float = 2e-3

    ema: float = 0.998
    weight_decay: float = 0.01
    warmup: int = 50
    checkpoint_seconds: float = 60.0
