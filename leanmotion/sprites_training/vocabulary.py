"""The captions' tokenizer and text encoder: CLIP's classes, a vocabulary of the words that captions use."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from leanmotion.sprites_training.recipe import Recipe

START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.!?'-"


def byte_pairs(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges under which every given word is one token; other words fall apart into letters."""
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS)]
    merges: list[tuple[str, str]] = []
    for word in sorted(set(words)):
        pieces = [*word[:-1], word[-1] + "</w>"]
        # Built from the end: only a word that ends alike can share its first merges, so no word breaks another.
        right = pieces[-1]
        for left in reversed(pieces[:-1]):
            if (left, right) not in merges:
                merges.append((left, right))
            right = left + right
            tokens.append(right)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return vocabulary, merges


def new_tokenizer(captions: Iterable[str], recipe: Recipe) -> CLIPTokenizer:
    """A tokenizer under which every word of the captions is one token."""
    vocabulary, merges = byte_pairs(word for caption in captions for word in caption.split())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8", newline="\n")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (Path(folder) / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": recipe.text_length}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8", newline="\n")
        return CLIPTokenizer.from_pretrained(folder)


def new_text_encoder(tokenizer: CLIPTokenizer, recipe: Recipe) -> CLIPTextModel:
    """An untrained text encoder for this tokenizer."""
    vocabulary = tokenizer.get_vocab()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=4 * recipe.text_width,
        projection_dim=recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        max_position_embeddings=recipe.text_length,
        bos_token_id=vocabulary[START],
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[END],
    )
    return CLIPTextModel(config)
