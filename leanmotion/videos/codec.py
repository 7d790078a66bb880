"""Frames to bytes and back: lossless FFV1 for everything that is measured, GIF and MP4 for eyes.

A clip is `UInt8[np.ndarray, "frames height width 3"]`, RGB, 0 to 255. Metrics read only what `encode`
wrote; the previews lose colour and never feed a number.
"""

import hashlib
import io
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.writing import whole

# 8-bit RGB goes into FFV1 as bgr0: the codec's only 8-bit RGB layout, so no colour is converted.
_PIXELS = "bgr0"
_BITEXACT = {"fflags": "+bitexact"}
# The clip ends in a Matroska Void element of 32 bytes (players skip it) that holds the SHA-256 of what is
# before: FFV1's own slice checksums do not stop the decoder, which hides the damage and goes on.
_VOID = b"\xec\xa0"
_WORKERS = min(os.cpu_count() or 1, 16)


def encode(frames: UInt8[np.ndarray, "frames height width 3"]) -> bytes:
    """Lossless FFV1 in Matroska, in memory; any size, also odd.

    The same frames give the same bytes in every process and on every day: one thread, and neither muxer nor
    encoder writes its name, a date or a random id (`bitexact`).
    Raises `LeanmotionError` on frames of another shape or type.
    """
    frames = _checked(frames)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska", options=_BITEXACT) as container:
        stream = _stream(container, "ffv1", frames, fps=1, pixels=_PIXELS)
        # Every frame stands on its own. The codec wants four slices on large frames and cannot cut tiny ones.
        slices = "4" if min(frames.shape[1:3]) >= 16 else "1"
        stream.options = {"flags": "+bitexact", "level": "3", "g": "1", "slices": slices}
        stream.codec_context.thread_count = 1
        planes = np.zeros((*frames.shape[:3], 4), np.uint8)
        planes[..., :3] = frames[..., ::-1]
        for pts, plane in enumerate(planes):
            frame = av.VideoFrame.from_ndarray(np.asarray(plane), format="bgra").reformat(format=_PIXELS)
            frame.pts, frame.time_base = pts, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = buffer.getvalue()
    return clip + _VOID + hashlib.sha256(clip).digest()


def decode(data: bytes) -> UInt8[np.ndarray, "frames height width 3"]:
    """The frames that `encode` was given, exactly.

    Raises `LeanmotionError` where the bytes are not such a clip: cut short, altered, of another codec.
    """
    clip, void, digest = data[:-34], data[-34:-32], data[-32:]
    if void != _VOID or hashlib.sha256(clip).digest() != digest:
        raise LeanmotionError(
            f"video bytes: {len(data)} bytes are no lossless clip, altered or cut short: generate the clip again"
        )
    try:
        with av.open(io.BytesIO(clip), "r", format="matroska") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            frames = [frame.to_ndarray(format="bgra")[..., 2::-1] for frame in container.decode(stream)]
    except (FFmpegError, IndexError) as error:
        raise LeanmotionError(f"video bytes: this PyAV cannot read FFV1 ({error}): install another") from error
    return np.ascontiguousarray(np.stack(frames))


def encode_all(clips: Iterable[UInt8[np.ndarray, "frames height width 3"]]) -> list[bytes]:
    """The same of many clips, spread over the cores: each clip's bytes are those that it has alone."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(encode, clips))


def decode_all(videos: Iterable[bytes]) -> list[UInt8[np.ndarray, "frames height width 3"]]:
    """Many clips, spread over the cores. Raises `LeanmotionError` as `decode` does, for the first that is none."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(decode, videos))


def write_gif(
    path: str | os.PathLike[str], frames: UInt8[np.ndarray, "frames height width 3"], fps: int | float = 8
) -> None:
    """A looping GIF for eyes, `fps` frames per second; 256 colours, so never a source of numbers."""
    images = [Image.fromarray(frame) for frame in _checked(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    _write_whole(path, buffer.getvalue())


def mp4_bytes(frames: UInt8[np.ndarray, "frames height width 3"], fps: int | float = 8, scale: int = 1) -> bytes:
    """An MP4 that browsers play (H.264, yuv420p), to embed in a page or to write.

    `scale` repeats each pixel that many times; an odd edge is padded by one repeated row or column, as 4:2:0
    needs. Where PyAV was built without x264, VP9 in MP4 is written: Chromium and Firefox play it as well.
    """
    frames = _checked(frames).repeat(scale, axis=1).repeat(scale, axis=2)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    if "libx264" in av.codecs_available:
        # Its lookahead reads memory that nobody wrote: with it, equal frames gave up to five different files.
        lean = {"x264-params": "rc-lookahead=0:mbtree=0"}
        codec, options = "libx264", {"crf": "16", "preset": "medium", **lean}
    elif "libvpx-vp9" in av.codecs_available:
        codec, options = "libvpx-vp9", {"crf": "20", "b": "0"}
    else:
        raise LeanmotionError("video preview: this PyAV has neither an H.264 nor a VP9 encoder: write a GIF")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options=_BITEXACT) as container:
        stream = _stream(container, codec, frames, fps=fps, pixels="yuv420p")
        stream.options = {**options, "flags": "+bitexact"}
        # Previews are committed or embedded: one thread keeps their bytes stable too.
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(
    path: str | os.PathLike[str],
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: int | float = 8,
    scale: int = 1,
) -> None:
    """`mp4_bytes` to a file."""
    _write_whole(path, mp4_bytes(frames, fps, scale))


def contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "_ height width 3"]],
    *,
    columns: int = 1,
    frames_shown: int = 8,
    scale: int = 1,
    gap: int = 2,
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """One picture of many clips: each clip is a strip of up to `frames_shown` evenly spaced frames.

    Strips fill rows of `columns` clips, in order, `gap` white pixels apart; `scale` repeats each pixel.
    All clips have the same height and width; a clip with fewer frames leaves white.
    """
    if not clips:
        raise LeanmotionError("contact sheet: no clips: give at least one")
    height, width = _checked(clips[0]).shape[1:3]
    strips = []
    for clip in clips:
        clip = _checked(clip)
        if clip.shape[1:3] != (height, width):
            sizes = f"{width}x{height} and {clip.shape[2]}x{clip.shape[1]}"
            raise LeanmotionError(f"contact sheet: clips of {sizes}: give clips of one size")
        shown = min(frames_shown, len(clip))
        picks = np.linspace(0, len(clip) - 1, shown).round().astype(int)
        strip = np.full((height, frames_shown * width, 3), 255, np.uint8)
        strip[:, : shown * width] = np.concatenate(list(clip[picks]), axis=1)
        strips.append(strip.repeat(scale, axis=0).repeat(scale, axis=1))
    rows, (high, wide) = math.ceil(len(strips) / columns), strips[0].shape[:2]
    sheet = np.full((rows * (high + gap) - gap, columns * (wide + gap) - gap, 3), 255, np.uint8)
    for place, strip in enumerate(strips):
        top, left = (place // columns) * (high + gap), (place % columns) * (wide + gap)
        sheet[top : top + high, left : left + wide] = strip
    return sheet


def _checked(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise LeanmotionError(
            f"video frames: {frames.dtype} of shape {frames.shape}: "
            "give uint8 RGB of shape (frames, height, width, 3), none of them 0"
        )
    return np.ascontiguousarray(frames)


def _stream(
    container: OutputContainer, codec: str, frames: np.ndarray, *, fps: int | float, pixels: str
) -> VideoStream:
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pixels
    return stream


def _write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    # A neighbour, then a rename: a reader (or a kill) never sees half a file.
    with whole(os.fspath(path)) as partial:
        partial.write_bytes(data)
