"""Videos as people have them: what comes back is what a player shows, or the reason why nothing does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.error import FFmpegError
from PIL import Image

from leanmotion.clips.video_folder import Skipped, folder_clips
from leanmotion.clips.video_reading import read_clip

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def pattern(count: int = 24, height: int = 64, width: int = 96) -> np.ndarray:
    """Red at the top left, green at the top right, blue below; a grey stripe at the lower left tells the frame."""
    out = np.zeros((count, height, width, 3), np.uint8)
    out[:, : height // 2, : width // 2], out[:, : height // 2, width // 2 :] = RED, GREEN
    out[:, height // 2 :] = BLUE
    for i in range(count):
        out[i, height // 2 :, : width // 4] = 10 * i % 250
    return out


def encode(path: Path, frames: np.ndarray, codec: str = "libx264", **how: Any) -> Path:
    with av.open(str(path), "w", format=how.get("container")) as container:
        fill(container, add(container, frames, codec, **how), frames)
    return path


def add(into: Any, frames: np.ndarray, codec: str, pixels: str = "yuv420p", **how: Any) -> Any:
    """A stream for frames of this size; all streams are added before the first is filled."""
    stream = into.add_stream(codec, rate=how.get("rate", 8))
    stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
    stream.options = how.get("options", {})
    if "gop" in how:
        stream.codec_context.gop_size = how["gop"]
    if "aspect" in how:
        stream.codec_context.sample_aspect_ratio = how["aspect"]
    return stream


def fill(container: Any, stream: Any, frames: np.ndarray) -> None:
    for i, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = i
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def read(path: Path, *, frames: int = 4, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    how: dict[str, Any] = {"frames": frames, "height": height, "width": width, "stride": 1}
    return read_clip(path, **how, rng=np.random.default_rng(seed))


def skipped(path: Path, **how: Any) -> str:
    """Why a file gives no clip."""
    listed = path.with_name("captions.csv")
    listed.write_text(f"file,caption\n{path.name},x\n")
    found: list[Skipped] = []
    size = {"frames": 4, "height": 16, "width": 16, **how}
    assert not list(folder_clips(path.parent, listed, **size, skipped=found))  # pyright: ignore[reportArgumentType]
    (one,) = found
    assert "\n" not in one.reason and one.file == path.name
    return one.reason


def is_like(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Of one shape, and few pixels more than lossy coding apart: at edges chroma and scaling smear two of them."""
    assert found.shape == wanted.shape
    apart = np.abs(found.astype(int) - wanted.astype(int)).max(-1)
    return float((apart > 24).mean()) < 0.2


def number(clip: np.ndarray) -> list[int]:
    """Which frames of the pattern these are."""
    return [round(float(frame[-8:, 2:8].mean()) / 10) for frame in clip]


MATRICES = {
    # a, b, c, d of the display matrix, and what a player makes of the stored picture.
    "as stored": ((1, 0, 0, 1), lambda v: v),
    "a quarter turn": ((0, 1, -1, 0), lambda v: np.rot90(v, -1, (1, 2))),
    "half a turn": ((-1, 0, 0, -1), lambda v: np.rot90(v, 2, (1, 2))),
    "a quarter turn back": ((0, -1, 1, 0), lambda v: np.rot90(v, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda v: v[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda v: v[:, ::-1]),
    "along the diagonal": ((0, 1, 1, 0), lambda v: v.transpose(0, 2, 1, 3)),
}


def turn(path: Path, matrix: tuple[float, ...]) -> Path:
    """Writes a display matrix into the header of an MP4's track, as cameras do."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd")
    place += 4 + (4 + (32 if content[place + 4] else 20)) + 16
    a, b, c, d = (round(value * 0x10000) for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_upright(name: str, tmp_path: Path) -> None:
    matrix, shown = MATRICES[name]
    path = turn(encode(tmp_path / "a.mp4", pattern(4)), matrix)
    wanted = shown(pattern(4))
    assert is_like(read(path, height=wanted.shape[1], width=wanted.shape[2]), wanted)


def test_a_slant_is_refused(tmp_path: Path) -> None:
    path = turn(encode(tmp_path / "a.mp4", pattern(4)), (0.7, 0.7, -0.7, 0.7))
    assert skipped(path) == "is turned by an angle that is not a right one"


@pytest.mark.parametrize("name", ["as stored", "a quarter turn"])
def test_pixels_are_square(name: str, tmp_path: Path) -> None:
    """Stored pixels of twice the width: a player stretches the picture, then turns it."""
    matrix, shown = MATRICES[name]
    path = turn(encode(tmp_path / "a.mp4", pattern(4), aspect=Fraction(2, 1)), matrix)
    wanted = shown(pattern(4).repeat(2, axis=2))
    assert is_like(read(path, height=wanted.shape[1], width=wanted.shape[2]), wanted)


def test_what_an_edit_list_hides_is_not_there(tmp_path: Path) -> None:
    """As `ffmpeg -ss ... -c copy` cuts: packets since the last key frame stay in the file, and do not play."""
    whole = encode(tmp_path / "whole.mp4", pattern(), gop=24, options={"bf": "0"})
    path, first = tmp_path / "cut.mp4", 16
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is None or packet.pts is None or packet.duration is None:
                continue
            packet.pts -= first * packet.duration
            packet.dts -= first * packet.duration
            packet.stream = copy
            target.mux(packet)
    for seed in range(6):
        start, *rest = number(read(path, frames=6, seed=seed))
        assert start >= first and rest == list(range(start + 1, start + 6))
    assert number(read(path, frames=8)) == list(range(16, 24))
    assert skipped(path, frames=9) == "has 8 frames, 9 are needed"


@pytest.fixture
def covered(tmp_path: Path) -> Iterator[Path]:
    """A cover picture before the video, and a small preview beside it."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        contents = [np.full((1, 64, 96, 3), 128, np.uint8), pattern(8, 32, 48)[:, :, ::-1], pattern(8)]
        codecs = [("mjpeg", "yuvj420p"), ("libx264", "yuv420p"), ("libx264", "yuv420p")]
        streams = [add(container, frames, *codec) for frames, codec in zip(contents, codecs, strict=True)]
        for stream, frames in zip(streams, contents, strict=True):
            fill(container, stream, frames)
    yield path


def test_the_video_among_streams_is_read(covered: Path) -> None:
    assert is_like(read(covered, frames=8), pattern(8))


def test_sound_before_the_pictures_does_not_matter(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound, video = container.add_stream("aac", rate=44100), add(container, pattern(4), "libx264")
        for i in range(9):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.rate, frame.pts = 44100, i * 1024
            container.mux(sound.encode(frame))  # pyright: ignore[reportAttributeAccessIssue]
        container.mux(sound.encode(None))  # pyright: ignore[reportAttributeAccessIssue]
        fill(container, video, pattern(4))
    assert is_like(read(tmp_path / "a.mp4"), pattern(4))


KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {}, "a.MOV": {}, "a.ts": {}, "a.avi": {"codec": "mpeg4"}, "a.wmv": {"codec": "wmv2"},
    "a.webm": {"codec": "libvpx-vp9"}, "a.flv": {"codec": "flv1"}, "a.mpg": {"codec": "mpeg2video"},
    "a.mxf": {"codec": "mpeg2video", "rate": 25}, "a.y4m": {"codec": "rawvideo", "container": "yuv4mpegpipe"},
    "a.h264": {"container": "h264"}, "a.m2v": {"codec": "mpeg2video", "container": "mpeg2video"},
    "a.mkv": {"codec": "ffv1", "pixels": "bgr0"}, "b.mkv": {"codec": "ffv1", "pixels": "yuv420p10le"},
    "a.nut": {"codec": "ffv1", "pixels": "bgr0"}, "b.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_files(name: str, tmp_path: Path) -> None:
    assert is_like(read(encode(tmp_path / name, pattern(4), **KINDS[name])), pattern(4))


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_animated_pictures(kind: str, tmp_path: Path) -> None:
    pictures = [Image.fromarray(frame) for frame in pattern(4)]
    more: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    pictures[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=pictures[1:], duration=125, **more)
    assert is_like(read(tmp_path / f"a.{kind}"), pattern(4))


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_what_is_transparent_is_white(kind: str, tmp_path: Path) -> None:
    pictures = [Image.fromarray(frame).convert("RGBA") for frame in pattern(4)]
    for picture in pictures:
        picture.paste((0, 0, 0, 0), (48, 0, 96, 32))
    more: dict[str, Any] = {"lossless": True} if kind == "webp" else {"disposal": 2} if kind == "gif" else {}
    path = tmp_path / f"a.{kind}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125, **more)
    wanted = pattern(4)
    wanted[:, :32, 48:] = 255
    assert is_like(read(path), wanted)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.avi"])
def test_damage_is_not_concealed(name: str, tmp_path: Path) -> None:
    """Wherever a decoder notices it: a stretch before the damage comes back as it was, no other does.

    Which one a seed finds may be another than before, as packets are missing.
    """
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    moving = np.stack([np.roll(noise, 3 * i, 1) for i in range(24)])
    path = encode(tmp_path / name, moving, **{k: v for k, v in KINDS[name].items() if k == "codec"})
    whole = read(path, frames=24)
    intact = {whole[start : start + 4].tobytes() for start in range(21)}
    content = bytearray(path.read_bytes())
    place = len(content) * 3 // 4
    content[place : place + 400] = np.random.default_rng(1).bytes(400)
    path.write_bytes(content)
    refused = 0
    for seed in range(8):
        try:
            assert read(path, seed=seed).tobytes() in intact
        except (ValueError, FFmpegError):
            refused += 1
    assert refused and skipped(path, frames=24)


@pytest.mark.parametrize(
    ("name", "known", "unknown"),
    [("a.avi", b"FMP4", b"ZZZZ"), ("a.mp4", b"avc1", b"zzz1"), ("a.mkv", b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XXX")],
)
def test_an_unknown_codec_is_named(name: str, known: bytes, unknown: bytes, tmp_path: Path) -> None:
    path = encode(tmp_path / name, pattern(4), **({"codec": "mpeg4"} if name == "a.avi" else {}))
    content = path.read_bytes()
    assert known in content
    path.write_bytes(content.replace(known, unknown))
    assert skipped(path) == "is of a codec that is not read here"


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_high_dynamic_range_is_not_taken_for_plain(transfer: str, tmp_path: Path) -> None:
    options = {"x265-params": f"transfer={transfer}:colorprim=bt2020:colormatrix=bt2020nc:log-level=none"}
    path = encode(tmp_path / "a.mp4", pattern(4), "libx265", pixels="yuv420p10le", options=options)
    assert skipped(path) == "is HDR: map its tones to SDR first"


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_webm_is_white(codec: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = add(container, pattern(4), codec, pixels="yuva420p", options={"auto-alt-ref": "0"})
        for i, picture in enumerate(pattern(4)):
            seen = np.full((64, 96, 1), 255, np.uint8)
            seen[:32, 48:] = 0
            frame = av.VideoFrame.from_ndarray(np.concatenate([picture, seen], -1), format="rgba")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    wanted = pattern(4)
    wanted[:, :32, 48:] = 255
    assert is_like(read(tmp_path / "a.webm"), wanted)


def test_a_video_with_fewer_pictures_than_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields, hidden frames: then pictures are counted, and no seed finds the clip broken."""
    from leanmotion.clips import video_reading

    path = encode(tmp_path / "a.mp4", pattern(8))
    monkeypatch.setattr(video_reading, "_stream", lambda path: video_reading._Stream(0, 24))
    for seed in range(6):
        start, *rest = number(read(path, frames=6, seed=seed))
        assert 0 <= start <= 2 and rest == list(range(start + 1, start + 6))


OTHERS = {
    "zero.mp4": (b"", "is empty"),
    "page.mp4": (b"<!DOCTYPE html><html>403</html>", "is a web page"),
    "lfs.mp4": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
    "junk.mp4": (np.random.default_rng(0).bytes(5000), "is damaged, or no video"),
    "list.mp4": (b"#EXTM3U\n#EXTINF:1,\nsecret.mp4\n", "playlist"),
    "words.mp4": (b"not a video\n", "is a text"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_video_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    content, said = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    assert said in skipped(tmp_path / name)


def test_a_still_picture_is_no_video(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        Image.fromarray(pattern(1)[0]).save(tmp_path / name)
    assert "PNG picture" in skipped(tmp_path / "a.png") and "JPEG picture" in skipped(tmp_path / "a.jpg")
    assert skipped(tmp_path / "a.webp") == "has 1 frames, 4 are needed"
