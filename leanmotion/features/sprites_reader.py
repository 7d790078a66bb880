"""A small video network that reads colour, shape and motion off a clip.

Its pooled features are the embedded FVD extractor.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class SpriteReader(nn.Module):
    """Convolutions per frame, then over time; heads on pooled features.

    Args:
        labels: head name -> class names.
        width: channels of the first level.
        features: size of the pooled features.
        size: frames of another size are resized to this one.
    """

    def __init__(self, labels: dict[str, list[str]], width: int = 24, features: int = 64, size: int = 64) -> None:
        super().__init__()
        self.labels = labels
        self.settings = {"width": width, "features": features, "size": size}
        w = width
        # Two more input channels hold each pixel's place: direction and floor are told by where things are.
        self.picture = nn.Sequential(
            nn.Conv2d(5, w, 5, stride=2, padding=2),
            nn.GroupNorm(4, w),
            nn.SiLU(),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1),
            nn.GroupNorm(4, 2 * w),
            nn.SiLU(),
            # Shapes are told by their outlines: one more look before the map gets coarse.
            nn.Conv2d(2 * w, 2 * w, 3, padding=1),
            nn.GroupNorm(4, 2 * w),
            nn.SiLU(),
            nn.Conv2d(2 * w, 2 * w, 3, stride=2, padding=1),
            nn.GroupNorm(4, 2 * w),
            nn.SiLU(),
        )
        self.time = nn.Sequential(
            nn.Conv3d(2 * w, 3 * w, 3, padding=1),
            nn.GroupNorm(4, 3 * w),
            nn.SiLU(),
            nn.Conv3d(3 * w, 4 * w, 3, stride=(1, 2, 2), padding=1),
            nn.GroupNorm(4, 4 * w),
            nn.SiLU(),
            nn.Conv3d(4 * w, 4 * w, 3, padding=1),
            nn.GroupNorm(4, 4 * w),
            nn.SiLU(),
        )
        self.pooled = nn.Linear(10 * w, features)
        self.heads = nn.ModuleDict({head: nn.Linear(features, len(names)) for head, names in labels.items()})

    def forward(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Read clips.

        Args:
            frames: float [n, f, 3, h, w] in [-1, 1].

        Returns:
            Features float [n, d] before the heads, and head name -> logits [n, classes].
        """
        n, f = frames.shape[:2]
        x = frames.flatten(0, 1)
        size = self.settings["size"]
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
        axis = torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype)
        place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(len(x), 2, size, size)
        x = self.picture(torch.cat([x, place], 1))
        # The mean tells how much there is, the maximum whether it is there at all. Maxima are taken frame by frame:
        # over the mean of frames, what moves is smeared and shapes look alike.
        seen = x.amax((2, 3)).unflatten(0, (n, f)).mean(1)
        x = self.time(x.unflatten(0, (n, f)).transpose(1, 2))
        x = torch.cat([x.mean((2, 3, 4)), x.amax((3, 4)).mean(2), seen], 1)
        features = self.pooled(x)
        read = F.silu(features)
        return features, {head: layer(read) for head, layer in self.heads.items()}

    def save(self, path: str | Path) -> None:
        """Write `config.json` (sizes and label names) and `model.safetensors` into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        config = {**self.settings, "labels": self.labels}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_folder(cls, path: str | Path) -> SpriteReader:
        """Load what `save` wrote, in evaluation mode; raises FileNotFoundError where a file is missing."""
        folder = Path(path)
        config = json.loads((folder / CONFIG).read_text())
        reader = cls(config["labels"], config["width"], config["features"], config["size"])
        reader.load_state_dict(load_file(folder / WEIGHTS))
        return reader.eval().requires_grad_(False)
