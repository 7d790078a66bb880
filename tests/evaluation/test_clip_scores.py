"""A tiny CLIP of the published layout: alignment and consistency against embeddings by hand, and the refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import make_tokenizer, seeded

from leanmotion.errors import LeanmotionError
from leanmotion.evaluation import clip_scores
from leanmotion.evaluation.clip_scores import ClipModel, open_clip
from leanmotion.pipeline.tables import write_table
from leanmotion.videos.codec import encode

PROMPTS = ["a dog", "two dogs", "rain"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel

    path = tmp_path_factory.mktemp("clip")
    tokenizer = make_tokenizer(path)
    common: dict[str, Any] = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2
    }  # fmt: skip
    config = CLIPConfig(
        text_config={**common, "vocab_size": len(tokenizer), "max_position_embeddings": 12,
                     "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id},
        vision_config={**common, "image_size": 16, "patch_size": 8}, projection_dim=6,
    )  # fmt: skip
    seeded(0, lambda: CLIPModel(config)).save_pretrained(path)
    return path


def clips(count: int = 3, size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, size, size + 8, 3), np.uint8)


def test_scores_are_cosines_of_embeddings(folder: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    found = ClipModel(str(folder), batch=2, device="cpu").scores(clips(), PROMPTS)
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(
        PROMPTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )
    frames = torch.from_numpy(clips()).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    shown = torch.nn.functional.interpolate(frames, (16, 21), mode="bicubic", antialias=True).clamp(0, 1)[..., 2:18]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (clip_scores._MEAN, clip_scores._STD))
    with torch.inference_mode():
        out = model(**tokens, pixel_values=(shown - mean) / std)
    images = out.image_embeds.reshape(3, 4, 6)
    np.testing.assert_allclose(found[:, 0], (images * out.text_embeds[:, None]).sum(-1).mean(1), atol=1e-5)
    np.testing.assert_allclose(found[:, 1], (images[:, 1:] * images[:, :-1]).sum(-1).mean(1), atol=1e-5)


def test_a_still_clip_is_consistent(folder: Path) -> None:
    still = np.repeat(clips(1)[:, :1], 4, axis=1)
    assert ClipModel(str(folder), 4, "cpu").scores(still, PROMPTS[:1])[0, 1] == pytest.approx(1, abs=1e-5)


def test_scores_of_a_table_are_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    rows = [
        {"variant": "pruned", "split": "report", "seeds": "b", "index": i, "prompt": PROMPTS[i], "seed": i,
         "removed": [], "frames": 4, "height": 24, "width": 32, "video": encode(clip)}
        for i, clip in enumerate(clips())
    ]  # fmt: skip
    write_table(tmp_path / "videos.parquet", "videos", rows)
    model = ClipModel(str(folder), 4, "cpu")
    first = clip_scores.clip_scores(tmp_path / "videos.parquet", model)
    np.testing.assert_array_equal(first[["alignment", "consistency"]], model.scores(clips(), PROMPTS))
    monkeypatch.setattr(ClipModel, "scores", None)
    assert clip_scores.clip_scores(tmp_path / "videos.parquet", model).equals(first)


def test_what_is_no_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("# leanmotion built-in: none\n")
    assert open_clip(str(tmp_path / "none"), 2) is None
    (tmp_path / "pin.yaml").write_text("hub: someone/clip\n")
    with pytest.raises(LeanmotionError, match=r"evaluation\.clip: .*names no commit"):
        open_clip(str(tmp_path / "pin.yaml"), 2)
    with pytest.raises(LeanmotionError, match=r"evaluation\.clip .*no \.safetensors"):
        open_clip(str(tmp_path), 2)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "clip", "projection_dim": 9}')
    with pytest.raises(LeanmotionError, match=r"evaluation\.clip .*(no CLIP can be loaded|weights lack)"):
        open_clip(str(tmp_path), 2)
