"""Tables of videos -> clips, take by take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import UInt8

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.tables import stream_table
from leanmotion.videos.codec import decode_all


@dataclass(frozen=True)
class Clips:
    """The clips of one take, decoded. `frames`: uint8 [clips, frames, height, width, 3]."""

    name: str
    split: str
    seeds: str
    removed: tuple[str, ...]
    rows: pd.DataFrame
    frames: UInt8[np.ndarray, "clips frames height width 3"]


def read_clips(path: str | Path) -> list[Clips]:
    """Decode a video table, take by take.

    Raises:
        LeanmotionError: Missing or damaged.
    """
    return [_clips(group) for group in stream_table(path, "videos")]


def find_clips(path: str | Path, **wanted: str) -> Clips:
    """The one take of a table with the wanted `variant`, `split` and `seeds`, decoded; others are not.

    Raises:
        LeanmotionError: None or several fit.
    """
    fits = [group for group in stream_table(path, "videos") if all(group[k][0].as_py() == v for k, v in wanted.items())]
    if len(fits) != 1:
        raise LeanmotionError(f"{path}: {len(fits)} takes fit {dict(wanted)}, not one: `dvc repro` makes it anew")
    return _clips(fits[0])


def require_pairs(
    reference: Mapping[str, Any] | pd.DataFrame,
    other: Mapping[str, Any] | pd.DataFrame,
    *,
    name: str = "videos",
    same_seeds: bool = True,
) -> None:
    """Refuse to compare clips of other prompts, seeds or number.

    Args:
        reference: Columns `prompt` and `seed` of the clips compared with.
        other: The same of the clips to compare.
        name: What these are, for the message.
        same_seeds: False for the null, which is drawn from the same prompts with other seeds.

    Raises:
        LeanmotionError: They are not drawn from the same requests.
    """
    if len(reference["prompt"]) != len(other["prompt"]):
        counts = f"{len(other['prompt'])} clips, the reference {len(reference['prompt'])}"
        raise LeanmotionError(f"{name}: has {counts}: videos differ in number, which no distance allows; `dvc repro`")
    for column in ("prompt", "seed") if same_seeds else ("prompt",):
        for i, (one, two) in enumerate(zip(reference[column], other[column], strict=True)):
            if one != two:
                raise LeanmotionError(
                    f"{name}: videos differ in {column}, first clip {i} ({one!r}, {two!r}): "
                    "they cannot be compared pair by pair; `dvc repro`"
                )


def _clips(group: pa.Table) -> Clips:
    rows = group.drop_columns(["video"]).to_pandas()
    first = rows.iloc[0]
    frames = np.stack(decode_all(group["video"].to_pylist()))
    return Clips(first["variant"], first["split"], first["seeds"], tuple(first["removed"]), rows, frames)
