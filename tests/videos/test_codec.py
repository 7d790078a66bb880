"""Lossless clips: exact, byte-stable, honest about damage. Previews: playable, of the right size."""

import hashlib
import io
import subprocess
import sys

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leanmotion.errors import LeanmotionError
from leanmotion.videos import codec


def noise(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**16))
def test_round_trip_is_exact(frames, height, width, seed):
    clip = noise(frames, height, width, seed)
    assert np.array_equal(codec.decode(codec.encode(clip)), clip)


def test_large_and_flat_clips():
    clip = np.zeros((3, 301, 401, 3), np.uint8)
    clip[1, :, 7], clip[2] = (255, 0, 0), (0, 255, 1)
    data = codec.encode(clip)
    assert np.array_equal(codec.decode(data), clip)
    assert len(data) < 0.1 * clip.nbytes


def test_views_and_foreign_memory_orders():
    clip = noise(4, 9, 6)
    turned = clip.transpose(0, 2, 1, 3)[:, ::-1]
    assert np.array_equal(codec.decode(codec.encode(turned)), turned)


def test_bytes_are_stable_across_processes():
    code = (
        "import hashlib, numpy as np; from leanmotion.videos import codec;"
        "f = np.random.default_rng(3).integers(0, 256, (8, 33, 47, 3), dtype=np.uint8);"
        "print(*(hashlib.sha256(b).hexdigest() for b in (codec.encode(f), codec.mp4_bytes(f, 8, 2))))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]
    here = noise(8, 33, 47, 3)
    digests = [hashlib.sha256(b).hexdigest() for b in (codec.encode(here), codec.mp4_bytes(here, 8, 2))]
    assert runs[0].stdout.split() == runs[1].stdout.split() == digests, runs[0].stderr


def test_no_name_or_date_in_the_bytes():
    data = codec.encode(noise(2, 16, 16))
    assert b"Lavf6" not in data and b"Lavc6" not in data  # a version would change the bytes with the build
    assert b"DATE" not in data and b"CREATION" not in data.upper()


def test_every_damage_is_seen():
    data = codec.encode(noise(4, 16, 16))
    for place in range(0, len(data), 61):
        broken = bytearray(data)
        broken[place] ^= 0x10
        with pytest.raises(LeanmotionError, match="generate the clip again"):
            codec.decode(bytes(broken))
    for length in (0, 1, 33, 34, 100, len(data) - 40, len(data) - 1):
        with pytest.raises(LeanmotionError, match=f"{length} bytes"):
            codec.decode(data[:length])
    with pytest.raises(LeanmotionError):
        codec.decode(codec.mp4_bytes(noise(4, 16, 16)))


def test_other_players_read_the_clip():
    clip = noise(5, 20, 30)
    with av.open(io.BytesIO(codec.encode(clip)), "r") as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(np.stack(shown), clip)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8),
     np.zeros((2, 4, 4, 4), np.uint8)],
)  # fmt: skip
def test_wrong_frames_are_refused(wrong):
    # Under test jaxtyping sees the wrong type first; a user meets the LeanmotionError.
    with pytest.raises(LeanmotionError, match="give uint8 RGB"):
        codec._checked(wrong)
    with pytest.raises((LeanmotionError, TypeError)):
        codec.encode(wrong)


@pytest.mark.parametrize("scale", [1, 3])
def test_mp4_plays_in_a_browser(tmp_path, scale):
    clip = noise(8, 33, 31)
    path = tmp_path / "deep" / "clip.mp4"
    codec.write_mp4(path, clip, fps=8, scale=scale)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name in ("h264", "vp9") and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 8
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == 8
    assert shown[0].shape == (33 * scale + 33 * scale % 2, 31 * scale + 31 * scale % 2, 3)
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]


def test_mp4_keeps_a_flat_colour():
    clip = np.full((4, 32, 32, 3), (200, 40, 40), np.uint8)
    with av.open(io.BytesIO(codec.mp4_bytes(clip)), "r") as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(shown.astype(int) - clip[0]).max() < 12


def test_gif_has_every_frame_and_the_rate(tmp_path):
    clip = noise(6, 20, 24)
    codec.write_gif(tmp_path / "clip.gif", clip, fps=10)
    with Image.open(tmp_path / "clip.gif") as image:
        assert getattr(image, "n_frames", 1) == 6
        assert image.size == (24, 20) and image.info["duration"] == 100 and image.info["loop"] == 0


def test_contact_sheet_places_frames():
    clips = [np.full((8, 4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    clips[1][7] = 99
    sheet = codec.contact_sheet(clips, columns=2, frames_shown=3, scale=2, gap=2)
    assert sheet.shape == (2 * (8 + 2) - 2, 2 * (36 + 2) - 2, 3)
    assert (sheet[:8, :36] == 10).all() and (sheet[:8, 36:38] == 255).all()
    assert (sheet[:8, 38:62] == 20).all() and (sheet[:8, 62:] == 99).all()
    assert (sheet[10:, :36] == 30).all() and (sheet[10:, 36:] == 255).all()


def test_contact_sheet_refusals():
    with pytest.raises(LeanmotionError, match="no clips"):
        codec.contact_sheet([])
    with pytest.raises((LeanmotionError, TypeError)):
        codec.contact_sheet([noise(2, 4, 6), noise(2, 4, 8)])
