"""Frames -> features: the networks that a video distance is taken in.

A number travels with its extractor, the digest of its weights, the count of videos and frames, and `ddof`:
`describe` says it in words. Only the official I3D file gives the FVD of papers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from leanmotion.errors import LeanmotionError, did_you_mean
from leanmotion.features.frame_batches import Clips, at_least_two, in_batches, signed, stretched
from leanmotion.features.pinned import checked_digest, joint_digest
from leanmotion.features.token_extractors import VideoMAEExtractor, VJEPA2Extractor

EXTRACTORS = ("sprites", "i3d", "videomae", "vjepa2")
OFFICIAL_I3D = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
"""sha256 of `i3d_torchscript.pt`, the Kinetics-400 `rgb_scratch` I3D that StyleGAN-V and later work measure with."""

I3D_FRAMES, I3D_SIZE, I3D_FEATURES = 16, 224, 400


@runtime_checkable
class Extractor(Protocol):
    """A network that gives one feature vector a clip.

    Attributes:
        name: one of `EXTRACTORS`.
        digest: sha256 of its weights.
        official: these are the weights of the papers' FVD.
        dimensions: features of a clip.
    """

    name: str
    digest: str
    official: bool
    dimensions: int

    def check_frames(self, frames: int, height: int, width: int) -> None:
        """Raise LeanmotionError if clips of this size cannot be taken."""
        ...

    def features(self, clips: Clips) -> Float32[np.ndarray, "clips features"]:
        """Features of each clip. Raises LeanmotionError as `check_frames`."""
        ...


def load_extractor(
    name: str,
    *,
    path: str | Path,
    sha256: str | None = None,
    batch: int = 16,
    device: str = "cpu",
) -> Extractor:
    """Load an extractor from its weights, after checking their sha256.

    FVD is of `i3d` (Unterthiner et al. 2018, section 3); `sprites` reads the embedded world only.

    Args:
        name: one of `EXTRACTORS`.
        path: `sprites`: a folder; `i3d`: the TorchScript file; `videomae`, `vjepa2`: a folder, or a pin of the hub with
            a commit.
        sha256: `i3d`: of the file, the official one unless told another. Of the others: of the SHA-256 of config.json
            and each weights file in hexadecimal, joined; checked if given.
        batch: clips in one forward pass.
        device: where the network runs; features [clips, features] come back as float32 on the host.

    Raises:
        LeanmotionError: an unknown name, weights missing or damaged, or another sha256.
    """
    if batch < 1:
        raise LeanmotionError(f"extractor.batch is {batch}: 1 or more")
    if name == "sprites":
        return SpritesExtractor(Path(path), sha256, batch, device)
    if name == "i3d":
        return I3DExtractor(Path(path), sha256, batch, device)
    if name == "videomae":
        return VideoMAEExtractor(str(path), sha256, batch, device)
    if name == "vjepa2":
        return VJEPA2Extractor(str(path), sha256, batch, device)
    known = ", ".join(EXTRACTORS)
    raise LeanmotionError(f"extractor.name is {name!r}: choose one of {known}{did_you_mean(name, EXTRACTORS)}")


def describe(name: str, *, official: bool, videos: int, frames: int, ddof: int = 1) -> str:
    """What a Frechet distance was measured with, to stand beside the number."""
    weights = "" if official or name != "i3d" else " (not the official weights)"
    return f"FVD, {name} features{weights}, N = {videos}, {frames} frames, ddof = {ddof}"


class SpritesExtractor:
    """The embedded reader of the small world: pooled features, and what its heads read off a clip."""

    name, official = "sprites", False

    def __init__(self, folder: Path, sha256: str | None, batch: int, device: str) -> None:
        from leanmotion.features.sprites_reader import CONFIG, WEIGHTS, SpriteReader

        # The config too: another size of frames or order of labels would be another reader of the same weights.
        self.digest = joint_digest([folder / CONFIG, folder / WEIGHTS], sha256)
        try:
            self._model = SpriteReader.from_folder(folder).to(device)
        except Exception as error:  # safetensors and json have an error class each, torch a bare RuntimeError
            raise LeanmotionError(f"extractor.path {folder}: no reader of sprites can be loaded: {error}") from error
        self.dimensions = int(self._model.settings["features"])
        self._batch, self._device = batch, device

    def check_frames(self, frames: int, height: int, width: int) -> None:
        """Any size (frames are resized), two frames or more."""
        at_least_two(frames, self.name)

    def features(self, clips: Clips) -> Float32[np.ndarray, "clips features"]:
        """Pooled features before the heads."""
        self.check_frames(*clips.shape[1:4])
        return in_batches(clips, self._batch, self._device, lambda x: self._model(signed(x))[0])

    def read(self, clips: Clips) -> dict[str, np.ndarray]:
        """Head -> class name of each clip `[clips]`: the caption as the network sees it."""
        self.check_frames(*clips.shape[1:4])
        labels = {}
        for head, names in self._model.labels.items():
            logits = in_batches(clips, self._batch, self._device, lambda x, head=head: self._model(signed(x))[1][head])
            labels[head] = np.asarray(names)[logits.argmax(axis=1)]
        return labels


class I3DExtractor:
    """I3D of Kinetics-400 from a TorchScript file: 400 logits of 16 frames, as the field's FVD takes them.

    Frames are stretched to 224 x 224 bilinearly without antialiasing and scaled to [-1, 1] here, so that the
    file's own preprocessing stays out; float32 throughout, TF32 and autocast off. The file holds code: it is
    opened only after its sha256 was found equal to the official one or to the one in the settings.
    """

    name, dimensions = "i3d", I3D_FEATURES

    def __init__(self, path: Path, sha256: str | None, batch: int, device: str) -> None:
        self.digest = checked_digest(path, sha256 or OFFICIAL_I3D)
        self.official, self._path = self.digest == OFFICIAL_I3D, path
        try:
            with warnings.catch_warnings():
                # The field's file is TorchScript, whatever newer torch advises.
                warnings.filterwarnings("ignore", message=".*torch.jit.load", category=DeprecationWarning)
                self._model = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            line = str(error).strip().splitlines()[0]
            raise LeanmotionError(f"extractor.path {path} is no TorchScript file: {line}") from error
        self._batch, self._device = batch, device

    def check_frames(self, frames: int, height: int, width: int) -> None:
        """16 frames of any size."""
        if frames != I3D_FRAMES:
            raise LeanmotionError(
                f"sampling.frames is {frames}: the i3d extractor takes {I3D_FRAMES} frames, as published FVD does"
            )

    def features(self, clips: Clips) -> Float32[np.ndarray, "clips features"]:
        """The 400 logits."""
        self.check_frames(*clips.shape[1:4])
        return in_batches(clips, self._batch, self._device, lambda x: self.logits(signed(x)))

    def logits(self, frames: Tensor) -> Tensor:
        """Logits `[clips, 400]` of float frames `[clips, frames, 3, height, width]` in [-1, 1].

        Raises:
            LeanmotionError: the file is of another network.
        """
        x = stretched(frames, I3D_SIZE).transpose(1, 2)
        wanted = f"logits [clips, {self.dimensions}] of clips [clips, 3, frames, height, width]"
        try:
            found = self._model(x, rescale=False, resize=False, return_features=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what a script raises, also of a call that it does not take
            line = " ".join(str(error).split())[:150]
            raise LeanmotionError(
                f"extractor.path {self._path}: is no I3D as FVD takes it ({line}): it has to give {wanted}, called "
                "with rescale, resize and return_features"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (len(frames), self.dimensions):
            gives = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise LeanmotionError(
                f"extractor.path {self._path}: is no I3D as FVD takes it: gives {gives}, not {wanted}"
            )
        return found
