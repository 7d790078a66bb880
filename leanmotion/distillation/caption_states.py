"""Captions -> states of the text encoder, with a memory for those that come again."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leanmotion.pipeline.digests import weights_digest


class CaptionEncoder:
    """What the pipeline feeds the UNet for a prompt: padded to the tokenizer's length, last hidden state.

    Each caption runs alone: a batch's other captions move floats by about 1e-7, and a resumed training, whose memory
    is empty, would leave its former course.

    Args:
        tokenizer: the base's `CLIPTokenizer`.
        text_encoder: its `CLIPTextModel`; stays where it is, frozen.
        remembered: captions kept.

    Called with captions it gives their states [captions, tokens, width], of the encoder's dtype.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, remembered: int = 4096) -> None:
        self.tokenizer, self.text_encoder = tokenizer, text_encoder.eval()
        self.digest = weights_digest(text_encoder)
        self._one = lru_cache(maxsize=remembered)(self._encode)

    def __call__(self, captions: list[str]) -> Float[Tensor, "batch tokens dim"]:
        """States of all captions, in their order."""
        return torch.cat([self._one(caption) for caption in captions])

    @torch.no_grad()
    def _encode(self, caption: str) -> Float[Tensor, "1 tokens dim"]:
        ids = self.tokenizer(
            caption,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        # AnimateDiffPipeline's encode_prompt hands over a mask only where the encoder's config asks for one.
        return self.text_encoder(ids.to(self.text_encoder.device))[0]
