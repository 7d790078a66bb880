"""Video tables -> feature tables, each computed once: kept in the scratch store by videos and extractor."""

from pathlib import Path

import numpy as np
import pandas as pd

from leanmotion.errors import LeanmotionError
from leanmotion.features.extractors import Extractor, load_extractor
from leanmotion.features.feature_tables import DRAWN, HEADS
from leanmotion.features.motion import motion_descriptor
from leanmotion.features.video_tables import Clips, read_clips
from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import TableWriter, copy_table, read_table, table_meta


def open_extractor(settings: Settings) -> Extractor:
    """The extractor of the settings, after checking that it takes clips of `sampling`'s size.

    Raises:
        LeanmotionError: Weights missing or others than the setting's sha256, or a clip length it cannot take.
    """
    chosen, sampling = settings.extractor, settings.sampling
    extractor = load_extractor(
        chosen.name, path=chosen.path, sha256=chosen.sha256, revision=chosen.revision, batch=chosen.batch,
        device=device(),
    )  # fmt: skip
    extractor.check_frames(sampling.frames, sampling.height, sampling.width)
    return extractor


def embedded(videos: Path, extractor: Extractor) -> Path:
    """The feature table of a video table in the scratch store, computed if need be: one row a clip, same order.

    Raises:
        LeanmotionError: Videos missing or damaged, or features that are not finite.
    """
    drawn = table_meta(read_table(videos, "videos"))
    kept = scratch_folder() / "features" / f"{_key(drawn['digest'], extractor)}.parquet"
    if not _intact(kept):
        # What the clips were drawn with goes along: features of other frames or steps refuse to be compared.
        with TableWriter(kept, "features", {**_meta(extractor), DRAWN: drawn.get(DRAWN, "")}) as writer:
            for clips in read_clips(videos):
                writer.write(_rows(clips, extractor))
    return kept


def embed(videos: Path, out: Path, extractor: Extractor) -> None:
    """Write the feature table of a video table."""
    copy_table(embedded(videos, extractor), out, "features")


def _intact(kept: Path) -> bool:
    """Whether a feature table lies in the scratch store; a damaged one is dropped, to be computed again."""
    if not kept.is_file():
        return False
    try:
        read_table(kept, "features")
    except LeanmotionError:
        kept.unlink(missing_ok=True)
        return False
    return True


def _rows(clips: Clips, extractor: Extractor) -> pd.DataFrame:
    features = extractor.features(clips.frames)
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        prompt = clips.rows["prompt"].iloc[int(bad.argmax())]
        raise LeanmotionError(f"features of {clips.name}, prompt {prompt!r}, are not finite: check extractor.path")
    rows: pd.DataFrame = clips.rows.loc[:, ["variant", "split", "seeds", "index", "prompt", "seed"]].copy()
    rows["features"] = list(features.astype(np.float32))
    rows["motion"] = list(motion_descriptor(clips.frames).astype(np.float32))
    read = getattr(extractor, "read", None)
    heads = read(clips.frames) if read else None
    rows["labels"] = [[str(heads[h][i]) for h in HEADS] for i in range(len(rows))] if heads else [[]] * len(rows)
    return rows


def _meta(extractor: Extractor) -> dict[str, str]:
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "extractor_official": str(extractor.official).lower(),
        "extractor_dimensions": str(extractor.dimensions),
    }


def _key(content: str, extractor: Extractor) -> str:
    return values_digest([content, _meta(extractor), code_address(*EMBEDDING)])


EMBEDDING = (load_extractor, read_clips, _rows)
"""What turns stored videos into rows of features. All code that these reach is part of what features are kept under."""
