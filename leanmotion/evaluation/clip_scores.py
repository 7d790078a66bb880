"""What a CLIP model says of clips: how well frames fit their prompt, and how alike neighbouring frames are.

A second opinion for real teachers, of whose clips no reader of captions exists. Text alignment is the mean over frames
of the cosine between a frame's embedding and its prompt's (CLIPSIM: Wu et al. 2021, GODIVA, section 4); frame
consistency that between neighbouring frames (Esser et al. 2023, Gen-1, section 4.2). A still clip is fully consistent:
the motion measure stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from leanmotion.errors import LeanmotionError
from leanmotion.features.frame_batches import Clips, exact_float32
from leanmotion.features.pinned import MODEL, joint_digest, snapshot
from leanmotion.features.token_extractors import load_model, normalised
from leanmotion.features.video_tables import read_clips
from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.tables import read_frame, read_table, table_meta, write_table
from leanmotion.pipeline.watched_paths import built_in

SETTING = "evaluation.clip"
_FILES = (*MODEL, "vocab.json", "merges.txt", "tokenizer*.json", "special_tokens_map.json")
# CLIP's own channel moments for pixels in [0, 1].
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipModel:
    """A CLIP model (Radford et al. 2021) from a folder of its published layout, or from a pin of the hub.

    Args:
        path: of the folder or the pin.
        batch: clips in one forward pass.
        device: where it runs.

    Raises:
        LeanmotionError: no such model.
    """

    def __init__(self, path: str, batch: int, device: str) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        folder = snapshot(path, SETTING, _FILES)
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise LeanmotionError(f"{SETTING} {path}: no .safetensors weights there")
        self.digest = joint_digest([folder / "config.json", *weights], None)
        self._model = load_model(CLIPModel, folder, f"{SETTING} {path}", "CLIP").to(device)
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            line = str(error).strip().splitlines()[0]
            raise LeanmotionError(f"{SETTING} {path}: no tokenizer can be loaded: {line}") from error
        self._batch, self._device = batch, device

    def scores(self, clips: Clips, prompts: Sequence[str]) -> Float[np.ndarray, "clips 2"]:
        """Text alignment and frame consistency of each clip, cosines in [-1, 1]."""
        parts = []
        with torch.inference_mode(), exact_float32(self._device):
            for start in range(0, len(clips), self._batch):
                part = torch.from_numpy(np.ascontiguousarray(clips[start : start + self._batch])).to(self._device)
                parts.append(self._of(part.permute(0, 1, 4, 2, 3).float(), prompts[start : start + self._batch]))
        return np.concatenate(parts)

    def _of(self, frames: Tensor, prompts: Sequence[str]) -> np.ndarray:
        config: Any = self._model.config
        words = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt",
            max_length=config.text_config.max_position_embeddings,
        ).to(self._device)  # fmt: skip
        pixels = normalised(_cropped(frames.flatten(0, 1) / 255.0, config.vision_config.image_size), _MEAN, _STD)
        found = self._model(input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=pixels)
        images = found.image_embeds.unflatten(0, frames.shape[:2])
        alignment = cosine_similarity(images, found.text_embeds[:, None], dim=-1).mean(dim=1)
        consistency = cosine_similarity(images[:, 1:], images[:, :-1], dim=-1).mean(dim=1)
        return torch.stack([alignment, consistency], dim=1).cpu().double().numpy()


def open_clip(path: str, batch: int) -> ClipModel | None:
    """The model that `evaluation.clip` names; None where it names none.

    Raises:
        LeanmotionError: as `ClipModel`.
    """
    return None if built_in(path) is not None else ClipModel(path, batch, device())


def clip_scores(videos: Path, model: ClipModel) -> pd.DataFrame:
    """Scores of a video table: variant, split, seeds, index, alignment, consistency; kept in the scratch store.

    Raises:
        LeanmotionError: videos missing or damaged, or scores that are not finite.
    """
    drawn = table_meta(read_table(videos, "videos"))["digest"]
    kept = scratch_folder() / "clip_scores" / f"{values_digest([drawn, model.digest, code_address(*SCORING)])}.parquet"
    if kept.is_file():
        try:
            return read_frame(kept, "clip_scores")
        except LeanmotionError:  # damaged: computed again
            kept.unlink(missing_ok=True)
    rows = []
    for clips in read_clips(videos):
        found = clips.rows.loc[:, ["variant", "split", "seeds", "index"]].copy()
        found[["alignment", "consistency"]] = model.scores(clips.frames, clips.rows["prompt"].tolist())
        rows.append(found)
    table = pd.concat(rows, ignore_index=True)
    write_table(kept, "clip_scores", table)
    return table


def _cropped(frames: Tensor, size: int) -> Tensor:
    """`[frames, 3, height, width]`: the shorter side to `size`, bicubic with antialiasing, then the middle of it."""
    height, width = frames.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    frames = interpolate(frames, shape, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return frames[..., top : top + size, left : left + size]


SCORING = (ClipModel, read_clips)
"""What turns stored videos into scores. All code that these reach is part of what scores are kept under."""
