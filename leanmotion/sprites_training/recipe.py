"""All settings of the sprites world's training, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Sizes, then one group per training run, in the order in which they run."""

    size: int = 48
    frames: int = 8
    seed: int = 20
    threads: int = 1
    parts: int = 2  # of every batch below, shared among as many processes at most

    # Autoencoder: three levels, so a factor of 4. Under a factor of 8 a sprite is three latents wide: shapes get lost.
    vae_channels: tuple[int, ...] = (16, 32, 48)
    vae_groups: int = 4
    vae_steps: int = 2100
    vae_batch: int = 16
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
    unet_channels: tuple[int, ...] = (16, 48, 64, 64)
    unet_groups: int = 8
    unet_heads: int = 1
    motion_heads: int = 1

    # Diffusion, as AnimateDiff has it but for the prediction type: few steps start from nearly pure noise, where an
    # epsilon network's errors in the picture are multiplied by 25.
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"

    # Pictures and clips together.
    clips_per_caption: int = 64
    # By level, large maps first: from which share of the steps on its motion modules take part. What the small maps
    # have learnt to do by then, the large ones need not do.
    motion_from: tuple[float, ...] = (0.5, 0.23, 0.0, 0.0)
    image_steps: int = 400
    image_batch: int = 64
    image_every: int = 3
    joint_steps: int = 8000
    motion_batch: int = 8
    rate: float = 3e-3
    caption_dropout: float = 0.05
    word_dropout: float = 0.05

    # Then again, shortly: on some clips the modules of the largest maps are closed, so that those of smaller ones have
    # to tell frames apart alone. Shortly, as after 2,000 steps of it they were idle again (docs/teacher-trials.md).
    deepen_steps: int = 900
    deepen_rate: float = 2e-3
    deepen_closed: tuple[float, ...] = (0.5, 0.2, 0.3)  # share of steps that close so many levels, largest first
    deepen_decay_share: float = 0.5

    # Reader: the network that reads colour, shape and motion off a clip.
    reader_width: int = 24
    reader_features: int = 64
    reader_steps: int = 1000
    reader_clips_per_caption: int = 16
    reader_latent_noise: float = 0.15
    reader_batch: int = 16
    reader_rate: float = 2e-3

    ema: float = 0.999
    weight_decay: float = 0.01
    warmup: int = 100
    decay_share: float = 0.55
    checkpoint_seconds: float = 60.0

    @property
    def vae_factor(self) -> int:
        """Pixels to a latent, each way."""
        return int(2 ** (len(self.vae_channels) - 1))
