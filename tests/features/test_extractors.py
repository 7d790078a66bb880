"""Extractors: what they take, what they refuse before any work, and the code path of the official I3D."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from models import seeded

from leanmotion.errors import LeanmotionError
from leanmotion.features.extractors import I3DExtractor, describe, load_extractor
from leanmotion.features.motion import motion_descriptor
from leanmotion.features.sprites_reader import SpriteReader
from leanmotion.ranking.fvd import frechet_distance

pytestmark = pytest.mark.numeric

LABELS = {"colour": ["red", "blue"], "shape": ["circle", "square", "triangle"], "motion": ["left", "right"]}
OFFICIAL = os.environ.get("LEANMOTION_I3D")


class LooksLikeI3D(torch.nn.Module):
    """The call of the field's TorchScript file; fails unless its own preprocessing is off."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(48, 400)

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert x.shape[1:] == (3, 16, 224, 224)
        assert not rescale and not resize and return_features
        assert x.dtype == torch.float32
        return self.linear(x.mean(dim=[3, 4]).flatten(1))


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d.pt"
    torch.jit.script(seeded(0, LooksLikeI3D)).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def reader_folder(tmp_path):
    seeded(0, lambda: SpriteReader(LABELS, width=4, features=6, size=16)).save(tmp_path / "reader")
    return tmp_path / "reader"


def random_clips(count=3, frames=16, size=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, size, size + 4, 3), dtype=np.uint8)


def test_sprites_features_and_reading(reader_folder):
    extractor = load_extractor("sprites", path=reader_folder, batch=2)
    clips = random_clips(frames=4)
    features = extractor.features(clips)
    assert features.shape == (3, extractor.dimensions) == (3, 6)
    each = [hashlib.sha256((reader_folder / f).read_bytes()).hexdigest() for f in ("config.json", "model.safetensors")]
    assert extractor.digest == hashlib.sha256("".join(each).encode()).hexdigest()
    assert not extractor.official
    read = extractor.read(clips)  # pyright: ignore[reportAttributeAccessIssue]
    assert {head: set(values) <= set(LABELS[head]) for head, values in read.items()} == dict.fromkeys(LABELS, True)
    # Another batch size moves floats by rounding only: features are of order 1, sums of some hundred terms.
    whole = load_extractor("sprites", path=reader_folder, batch=3).features(clips)
    np.testing.assert_allclose(features, whole, atol=1e-5)


def test_sprites_scale_pixels_as_in_training(reader_folder):
    clips = random_clips(frames=4)
    with torch.no_grad():
        expected = SpriteReader.from_folder(reader_folder)(
            torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        )[0]
    np.testing.assert_allclose(load_extractor("sprites", path=reader_folder).features(clips), expected, atol=1e-5)


def test_i3d_takes_the_fields_input(i3d_file):
    path, digest = i3d_file
    extractor = load_extractor("i3d", path=path, sha256=digest, batch=2)
    assert (extractor.digest, extractor.official, extractor.dimensions) == (digest, False, 400)
    clips = random_clips()
    features = extractor.features(clips)
    assert features.shape == (3, 400)
    assert features.dtype == np.float32
    # By hand: bilinear without antialias is what numpy's interp does along each axis at half-pixel centres.
    x = clips.astype(np.float64) / 127.5 - 1
    for axis in (2, 3):
        length = x.shape[axis]
        centres = (np.arange(224) + 0.5) * length / 224 - 0.5
        x = np.apply_along_axis(lambda v, c=centres, n=length: np.interp(c, np.arange(n), v), axis, x)
    weights = torch.jit.load(str(path)).linear
    pooled = x.mean(axis=(2, 3)).transpose(0, 2, 1).reshape(3, 48)
    expected = pooled @ weights.weight.detach().double().numpy().T + weights.bias.detach().double().numpy()
    # float32 means over 224 * 224 pixels of order 1, then 48 products: 1e-4 leaves two digits of room.
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_i3d_is_checked_before_it_is_opened(i3d_file, monkeypatch):
    path, digest = i3d_file

    def opened(*_, **__):
        raise AssertionError("the file was opened before its sha256 was checked")

    monkeypatch.setattr(torch.jit, "load", opened)
    with pytest.raises(LeanmotionError, match="sha256"):
        load_extractor("i3d", path=path)
    with pytest.raises(LeanmotionError, match="sha256"):
        load_extractor("i3d", path=path, sha256="0" * 64)
    with pytest.raises(AssertionError):
        load_extractor("i3d", path=path, sha256=digest)


def test_wrong_inputs_are_one_clear_line(i3d_file, reader_folder, tmp_path):
    path, digest = i3d_file
    i3d = load_extractor("i3d", path=path, sha256=digest)
    with pytest.raises(LeanmotionError, match="16 frames"):
        i3d.check_frames(8, 64, 64)
    with pytest.raises(LeanmotionError, match="16 frames"):
        i3d.features(random_clips(frames=8))
    with pytest.raises(LeanmotionError, match="2 frames"):
        load_extractor("sprites", path=reader_folder).check_frames(1, 64, 64)
    with pytest.raises(LeanmotionError, match="did you mean 'sprites'"):
        load_extractor("sprite", path=reader_folder)
    with pytest.raises(LeanmotionError, match="missing"):
        load_extractor("sprites", path=tmp_path / "nowhere")
    with pytest.raises(LeanmotionError, match="sha256"):
        load_extractor("sprites", path=reader_folder, sha256="0" * 64)
    (reader_folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(LeanmotionError, match="no reader"):
        load_extractor("sprites", path=reader_folder)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a script")
    with pytest.raises(LeanmotionError, match="no TorchScript"):
        load_extractor("i3d", path=broken, sha256=hashlib.sha256(b"not a script").hexdigest())
    with pytest.raises(LeanmotionError, match="neither a folder nor a pin of the hub, as in presets/hub/"):
        load_extractor("videomae", path="someone/videomae")
    (tmp_path / "pin.yaml").write_text("hub: someone/videomae\n")
    with pytest.raises(LeanmotionError, match=r"pin\.yaml names no commit: write one as `revision`"):
        load_extractor("videomae", path=tmp_path / "pin.yaml")


def test_videomae_from_a_folder(tmp_path):
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    seeded(0, lambda: VideoMAEModel(config)).save_pretrained(tmp_path)
    extractor = load_extractor("videomae", path=tmp_path)
    assert extractor.features(random_clips(frames=4)).shape == (3, 8)
    assert extractor.dimensions == 8
    with pytest.raises(LeanmotionError, match="takes 4 frames"):
        extractor.check_frames(16, 64, 64)


def test_vjepa2_from_a_folder(tmp_path):
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=16, patch_size=8, frames_per_clip=8, tubelet_size=2, hidden_size=12, num_hidden_layers=1,
        num_attention_heads=2, pred_hidden_size=12, pred_num_hidden_layers=1, pred_num_attention_heads=2,
        pred_num_mask_tokens=1,
    )  # fmt: skip
    model = seeded(0, lambda: VJEPA2Model(config)).eval()
    model.save_pretrained(tmp_path)
    extractor = load_extractor("vjepa2", path=tmp_path, batch=2)
    clips = random_clips(frames=4)
    features = extractor.features(clips)
    assert features.shape == (3, 12) and extractor.dimensions == 12
    # By hand: stretched, normalised by ImageNet's moments, the encoder's tokens averaged.
    frames = torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 255
    small = torch.nn.functional.interpolate(frames.flatten(0, 1), (16, 16), mode="bilinear").unflatten(0, (3, 4))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = model.get_vision_features((small - mean) / std).mean(dim=1)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert np.abs(features - extractor.features(clips[:, ::-1])).max() > 1e-4, "it feels the order of frames"
    with pytest.raises(LeanmotionError, match="a multiple of 2"):
        extractor.check_frames(5, 64, 64)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LeanmotionError, match=r"no vjepa2 can be loaded|weights lack"):
        load_extractor("vjepa2", path=tmp_path)


def test_motion_descriptor():
    clips = np.zeros((2, 3, 16, 16, 3), np.uint8)
    clips[1, 1, :2, :2] = 255  # one cell of the 8 x 8 grid lights up, then goes out
    descriptor = motion_descriptor(clips).reshape(2, 2, 8, 8)
    assert not descriptor[0].any()
    assert descriptor[1, :, 0, 0].tolist() == [1, 1]
    assert descriptor[1].sum() == 2
    # Sizes that 8 does not divide, and fewer pixels than cells: a mean over cells weighted by area is the mean change.
    odd = random_clips(count=1, frames=2, size=19)
    cells = motion_descriptor(odd).reshape(8, 8)
    change = np.abs(np.diff(odd.astype(float), axis=1)).mean() / 255
    rows, columns = (np.diff(np.linspace(0, n, 9).astype(int)) for n in (19, 23))
    assert (cells * np.outer(rows, columns)).sum() / (19 * 23) == pytest.approx(change, rel=1e-5)
    assert motion_descriptor(random_clips(size=2, frames=2)).shape == (3, 2 * 6)
    with pytest.raises(LeanmotionError, match="2 frames"):
        motion_descriptor(clips[:, :1])


def test_describe_names_everything():
    assert describe("sprites", official=False, videos=64, frames=8) == (
        "FVD, sprites features, N = 64, 8 frames, ddof = 1"
    )
    assert "not the official weights" in describe("i3d", official=False, videos=64, frames=16)


@pytest.mark.skipif(OFFICIAL is None, reason="LEANMOTION_I3D names no i3d_torchscript.pt")
def test_official_i3d_gives_the_published_value():
    extractor = load_extractor("i3d", path=Path(OFFICIAL or ""), batch=8)
    assert extractor.official
    zeros = extractor.features(np.zeros((8, 16, 64, 64, 3), np.uint8))
    ones = extractor.features(np.full((8, 16, 64, 64, 3), 255, np.uint8))
    assert frechet_distance(zeros, ones) == pytest.approx(152.9175, abs=1e-3)


@pytest.mark.skipif(OFFICIAL is None, reason="LEANMOTION_I3D names no i3d_torchscript.pt")
@pytest.mark.timeout(3600)
def test_official_i3d_on_noise(capsys):
    """Printed, not asserted: two seeds of noise, 256 clips each, reported as 10.138."""
    extractor = load_extractor("i3d", path=Path(OFFICIAL or ""))
    assert isinstance(extractor, I3DExtractor)

    def of_seed(seed):
        noise = np.random.RandomState(seed)
        parts = []
        for _ in range(64):  # `rand` in parts is the same stream
            frames = torch.from_numpy(noise.rand(4, 16, 224, 224, 3)).permute(0, 1, 4, 2, 3)
            with torch.inference_mode():
                parts.append(extractor.logits((frames * 2 - 1).float()).numpy())
        return np.concatenate(parts)

    value = frechet_distance(of_seed(1), of_seed(2))
    with capsys.disabled():
        print(f"\nI3D, RandomState(1) against (2), 256 clips: {value:.3f} (reported: 10.138)")
