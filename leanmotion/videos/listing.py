"""The takes of a video table, as a small table at a stage's end. For eyes."""

from pathlib import Path

import numpy as np

from leanmotion.pipeline.numbers import short
from leanmotion.pipeline.tables import stream_table
from leanmotion.pipeline.terminal import show
from leanmotion.videos.codec import decode

_MOTION_CLIPS = 4


def show_takes(path: Path) -> None:
    """Takes of a video table: how many clips, their size, and how much moves in the first few of them."""
    rows = []
    for group in stream_table(path, "videos"):
        sizes = [len(video.as_py()) for video in group["video"]]
        shown = [decode(video.as_py()).astype(np.int16) for video in group["video"][:_MOTION_CLIPS]]
        moves = [float(np.abs(np.diff(frames, axis=0)).mean()) for frames in shown if len(frames) > 1]
        first = {key: group[key][0].as_py() for key in ("variant", "split", "seeds", "removed")}
        gone = len(first["removed"])
        name = str(first["variant"])
        rows.append(
            [name, f"{first['split']} {first['seeds']}", str(gone), str(len(sizes)), f"{sum(sizes) / 1e6:.2f}",
             short(sum(moves) / len(moves)) if moves else "-"]
        )  # fmt: skip
    head = ["variant", "split, seeds", "removed", "clips", "MB", f"motion (first {_MOTION_CLIPS})"]
    show(str(path), head, rows, "motion: mean difference of neighbouring frames, in grey levels of 255")
