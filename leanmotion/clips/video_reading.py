"""A stretch of a video file as upright RGB frames of one size; what is damaged is refused, not concealed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import ArgumentError, FFmpegError
from av.sidedata.sidedata import Type
from av.stream import Disposition
from jaxtyping import UInt8

from leanmotion.pipeline.file_kinds import file_kind

CONTAINERS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpeg", "mpegts", "flv", "asf", "ogg", "mxf", "gxf", "nut"),
    *("rm", "dv", "wtv", "ivf", "obu", "av1", "h264", "hevc", "m4v", "mpegvideo", "yuv4mpegpipe", "gif", "apng"),
)
"""FFmpeg's names of containers that hold their own pictures, raw streams among them; beside them animated WebP.

Playlists and scripts (HLS, concat, ...) name other files and addresses.
"""
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
"""A decoder that finds damage stops, where it would else conceal it and go on."""

_HDR = (16, 18)
"""Transfer characteristics (ITU-T H.273, table 3) of PQ and HLG: taken for SDR, pictures come out pale."""
_CLEAR = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True)
class _Stream:
    """The video among a file's streams, by its number among those with pictures; and the pictures that it plays."""

    number: int
    frames: int


def read_clip(
    path: Path, *, frames: int, height: int, width: int, stride: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "frames height width 3"]:
    """A random stretch and crop of a video, as players show it; only its own frames are held.

    Turned and mirrored as its metadata says, pixels made square, what an edit list cuts away left out. Of several
    streams the one with the most pictures is read, and no cover.

    Raises:
        ValueError: no pictures, too few, damaged, or turned by an angle that is not a right one.
        FFmpegError: broken, or not a video of its own (playlists are refused).
    """
    span = (frames - 1) * stride + 1
    stream = _stream(path)
    across = down = None
    for _ in range(2):
        if stream.frames < span:
            raise ValueError(f"has {stream.frames} frames, {span} are needed")
        start = int(rng.integers(stream.frames - span + 1))
        if across is None or down is None:
            across, down = float(rng.random()), float(rng.random())
        pictures: list[np.ndarray] = []
        seen = 0
        for seen, (frame, pixel) in enumerate(_frames(path, stream), 1):
            if seen > start and (seen - 1 - start) % stride == 0:
                pictures.append(_crop(frame, pixel, height, width, across, down))
            if len(pictures) == frames:
                return np.ascontiguousarray(np.stack(pictures))
        # Packets are not pictures in every format: now they are counted.
        stream = _Stream(stream.number, seen)
    raise ValueError(f"broke off after {seen} frames")


def why_not(path: Path, error: BaseException) -> str:
    """Why a file gave no clip, in one line: what it is, where that says more than the error of a decoder."""
    said = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, FFmpegError):
        return said
    kind = None
    with suppress(OSError):
        kind = file_kind(path)
    if kind is not None:
        return f"is {kind.name}: {kind.mend or 'give a video'}"
    if isinstance(error, ArgumentError):
        return "is of no container that is read here"
    return f"is damaged, or no video ({error.strerror or said})"


def _stream(path: Path) -> _Stream:
    """By its packets: what a header says may be missing or wrong. An edit list marks those that do not play."""
    if picture := _webp(path):
        with picture as animated:
            return _Stream(0, getattr(animated, "n_frames", 1))
    with _open(path) as container:
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            raise ValueError("has no pictures")
        videos = [s for s in videos if s.codec_context is not None]
        if not videos:
            raise ValueError("is of a codec that is not read here")
        played = dict.fromkeys((stream.index for stream in videos), 0)
        for packet in container.demux(videos):
            if packet.size and not packet.is_discard:
                played[packet.stream_index] += 1
        best = max(videos, key=lambda s: (played[s.index], s.codec_context.width * s.codec_context.height))
        return _Stream(container.streams.video.index(best), played[best.index])


def _frames(path: Path, stream: _Stream) -> Iterator[tuple[Any, Fraction]]:
    """The pictures that play, and the shape of their pixels, width to height."""
    if picture := _webp(path):
        with picture as animated:
            for number in range(getattr(animated, "n_frames", 1)):
                animated.seek(number)
                yield av.VideoFrame.from_ndarray(np.asarray(animated.convert("RGBA")), format="rgba"), Fraction(1)
        return
    with _open(path) as container:
        chosen = container.streams.video[stream.number]
        decoder = _decoder(chosen)
        for packet in container.demux(chosen):
            if packet.is_corrupt:
                raise ValueError("is damaged")
            for frame in decoder.decode(packet):
                if frame.is_corrupt:
                    raise ValueError("is damaged")
                if frame.color_trc in _HDR:
                    raise ValueError("is HDR: map its tones to SDR first")
                yield frame, chosen.sample_aspect_ratio or Fraction(1)


def _decoder(stream: Any) -> Any:
    """A stream's decoder; FFmpeg's own ones of VP8 and VP9 leave out transparency, those of libvpx do not."""
    decoder, clear = stream.codec_context, stream.metadata.get("alpha_mode") == "1"
    if clear and decoder.name in _CLEAR:
        decoder = av.CodecContext.create(_CLEAR[decoder.name], "r")
    decoder.options = _STRICT
    return decoder


def _open(path: Path) -> Any:
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    return av.open(str(path.resolve()), "r", options=options)


def _webp(path: Path) -> Any:
    """The opened picture of an (animated) WebP file, which FFmpeg does not decode; None for any other file."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WEBP":
        return None
    from PIL import Image

    return Image.open(path, formats=["WEBP"])


def _opaque(frame: Any, size: dict[str, int]) -> UInt8[np.ndarray, "height width 3"]:
    """A frame scaled, as RGB; what is transparent is white, as FFmpeg has it in a GIF."""
    clear = any(component.is_alpha for component in frame.format.components)
    picture = frame.reformat(**size, format="rgba" if clear else "rgb24", interpolation="BICUBIC").to_ndarray()
    if not clear:
        return picture
    share = picture[..., 3:].astype(np.float32) / 255
    return (picture[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8)


def _crop(
    frame: Any, pixel: Fraction, height: int, width: int, across: float, down: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Scaled until it covers the crop, and cut: at a share `across` and `down` of what is left over."""
    turned, mirrored, flipped = _orientation(frame)
    tall, wide = frame.height, float(frame.width * pixel)
    if turned:
        tall, wide = wide, tall
    scale = max(height / tall, width / wide)
    h, w = max(height, round(tall * scale)), max(width, round(wide * scale))
    size = {"width": h, "height": w} if turned else {"width": w, "height": h}
    picture = _opaque(frame, size)
    if turned:
        picture = picture.transpose(1, 0, 2)
    picture = picture[:: -1 if flipped else 1, :: -1 if mirrored else 1]
    top, left = int(down * (h - height + 1)), int(across * (w - width + 1))
    return picture[top : top + height, left : left + width]


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """Whether rows become columns, then whether left and right, and top and bottom, change places.

    From the display matrix (ISO/IEC 14496-12, 8.3.2; FFmpeg's libavutil/display.h): a stored pixel (x, y) is shown at
    (a x + c y, b x + d y), in fixed point.

    Raises:
        ValueError: neither quarter turns nor mirrors.
    """
    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(found), np.int32, 5).tolist()
    largest = max(abs(value) for value in (a, b, c, d))
    # Roll angles of other containers are not exact.
    straight = [0 if abs(value) < largest / 1000 else int(np.sign(value)) for value in (a, b, c, d)]
    if straight[0] and straight[3] and not (straight[1] or straight[2]):
        return False, a < 0, d < 0
    if straight[1] and straight[2] and not (straight[0] or straight[3]):
        return True, c < 0, b < 0
    raise ValueError("is turned by an angle that is not a right one")
