"""Transformers of video as extractors: the encoder's last hidden state, averaged over tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.features.frame_batches import Clips, in_batches, stretched
from leanmotion.features.pinned import joint_digest, snapshot
from leanmotion.pipeline.alignment import align

# ImageNet's channel moments for pixels in [0, 1]: what the processors of both take off.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _TokenExtractor:
    """A model of transformers from a folder of its published layout, or from a pin of the hub."""

    name, official = "", False

    def __init__(self, path: str, sha256: str | None, batch: int, device: str) -> None:
        folder = snapshot(path)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise LeanmotionError(f"extractor.path {path}: no .safetensors weights there")
        # The config too: weights tell neither heads nor frames.
        self.digest = joint_digest([folder / "config.json", *files], sha256)
        self._model = load_model(self._class(), folder, f"extractor.path {path}", self.name).to(device)
        self.dimensions = int(self._model.config.hidden_size)
        self._batch, self._device = batch, device

    def _class(self) -> Any:
        raise NotImplementedError

    def check_frames(self, frames: int, height: int, width: int) -> None:
        """Raise LeanmotionError if clips of this size cannot be taken."""
        raise NotImplementedError

    def features(self, clips: Clips) -> Float32[np.ndarray, "clips features"]:
        """Mean of the encoder's tokens."""
        self.check_frames(*clips.shape[1:4])
        return in_batches(clips, self._batch, self._device, self._tokens)

    def _tokens(self, frames: Tensor) -> Tensor:
        raise NotImplementedError


class VideoMAEExtractor(_TokenExtractor):
    """VideoMAE's encoder (after Ge et al., 2024, content-debiased FVD)."""

    name = "videomae"

    def _class(self) -> Any:
        from transformers import VideoMAEModel

        return VideoMAEModel

    def check_frames(self, frames: int, height: int, width: int) -> None:
        """As many frames as the model was made for, of any size."""
        needed = self._model.config.num_frames
        if frames != needed:
            raise LeanmotionError(f"sampling.frames is {frames}: this videomae extractor takes {needed} frames")

    def _tokens(self, frames: Tensor) -> Tensor:
        x = normalised(stretched(frames / 255.0, self._model.config.image_size), _MEAN, _STD)
        return self._model(pixel_values=x).last_hidden_state.mean(dim=1)


class VJEPA2Extractor(_TokenExtractor):
    """V-JEPA 2's encoder (Assran et al., 2025), as Luo et al. (2024, JEDi) take V-JEPA's for a distance of videos.

    It was trained on 64 frames; positions are rotations, so that any even number of frames can be shown.
    """

    name = "vjepa2"

    def _class(self) -> Any:
        from transformers import VJEPA2Model

        return VJEPA2Model

    def check_frames(self, frames: int, height: int, width: int) -> None:
        """Whole tubelets, of any size."""
        tubelet = self._model.config.tubelet_size
        if frames % tubelet:
            raise LeanmotionError(f"sampling.frames is {frames}: this vjepa2 extractor takes a multiple of {tubelet}")

    def _tokens(self, frames: Tensor) -> Tensor:
        x = normalised(stretched(frames / 255.0, self._model.config.crop_size), _MEAN, _STD)
        return self._model(pixel_values_videos=x, skip_predictor=True).last_hidden_state.mean(dim=1)


def normalised(frames: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Frames `[..., 3, height, width]` less the mean of each channel, over its deviation."""
    low, scale = (frames.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return (frames - low) / scale


def load_model(kind: Any, folder: Path, setting: str, name: str) -> Any:
    """A model of transformers in float32, for inference, on the CPU.

    Args:
        kind: its class.
        folder: of the published layout: config.json and safetensors.
        setting: what named the folder, for the message.
        name: what it should hold, likewise.

    Raises:
        LeanmotionError: it does not load, or weights are missing.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise LeanmotionError(f"{setting}: no {name} can be loaded: {line}") from error
    if info["missing_keys"]:
        # transformers would leave these at random values.
        raise LeanmotionError(f"{setting}: weights lack {sorted(info['missing_keys'])[0]}")
    model = model.float().eval()
    align(model)
    return model
