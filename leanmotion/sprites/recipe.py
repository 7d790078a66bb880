"""All settings of the sprites world's training, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Sizes, then one group per training run, in the order in which they run."""

    size: int = 48
    frames: int = 8
    seed: int = 20
    threads: int = 1
    parts: int = 2  # of every batch below, shared among as many processes at most

    # Autoencoder: two levels, so a factor of 2. Under a factor of 8 a sprite is three latents wide: shapes get lost.
    vae_channels: tuple[int, ...] = (16, 32)
    vae_groups: int = 4
    vae_steps: int = 1000
    vae_batch: int = 16
    vae_rate: float = 3e-3
    vae_kl: float = 1e-3
    vae_clips_per_caption: int = 16
    foreground_weight: float = 4.0

    # Text encoder.
    text_width: int = 64
    text_layers: int = 2
    text_heads: int = 4
    text_length: int = 16

    # UNet. Captions and a view of the whole picture (attention) are on maps of 6 x 6 and smaller only.
    unet_channels: tuple[int, ...] = (8, 16, 48, 64)
    unet_plain_levels: int = 2  # without attention, largest maps first
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
    motion_from: tuple[float, ...] = (0.4, 0.0, 0.0, 0.0)
    image_steps: int = 200
    image_batch: int = 64
    image_every: int = 3
    joint_steps: int = 4200
    motion_batch: int = 8
    rate: float = 3e-3
    caption_dropout: float = 0.05
    word_dropout: float = 0.05

    # Before that the same on latents of half the size, without the largest maps; then these are put on top. A network
    # that knows its captions and motions on small maps learns the large ones in an hour, and keeps much of the work
    # where it was learnt.
    coarse_vae_level: int = 48  # width of the autoencoder's third level
    coarse_vae_steps: int = 2100
    coarse_vae_kl: float = 3e-4
    coarse_motion_from: tuple[float, ...] = (0.5, 0.23, 0.0, 0.0)
    coarse_image_steps: int = 400
    coarse_joint_steps: int = 8900
    time_fit_steps: int = 3000  # of telling the grown network's levels the time that they are used to

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

    @property
    def coarse(self) -> Recipe:
        """The recipe of the first of the two trainings: on latents of half the size, without the largest maps."""
        return replace(
            self,
            vae_channels=(*self.vae_channels, self.coarse_vae_level),
            vae_steps=self.coarse_vae_steps,
            vae_kl=self.coarse_vae_kl,
            unet_channels=(*self.unet_channels[1:], self.unet_channels[-1]),
            unet_plain_levels=self.unet_plain_levels - 1,
            motion_from=self.coarse_motion_from,
            image_steps=self.coarse_image_steps,
            joint_steps=self.coarse_joint_steps,
        )
