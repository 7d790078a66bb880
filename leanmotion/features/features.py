"""Video tables -> feature tables, each computed once: kept in the scratch store by videos and extractor."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from leanmotion.errors import LeanmotionError
from leanmotion.features.extractors import Extractor, load_extractor, motion_descriptor
from leanmotion.features.video_tables import Clips, read_clips
from leanmotion.pipeline.digests import code_digest
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import TableWriter, copy_table, read_table, table_meta

HEADS = ("colour", "shape", "motion")
"""What the sprites extractor reads off a clip; `labels` in the feature table holds them in this order."""
_DRAWN = "sampling"


def open_extractor(settings: Settings) -> Extractor:
    """The extractor of the settings, after checking that it takes clips of `sampling`'s size.

    Raises:
        LeanmotionError: Weights missing or others than the setting's sha256, or a clip length it cannot take.
    """
    chosen, sampling = settings.extractor, settings.sampling
    extractor = load_extractor(chosen.name, path=chosen.path, sha256=chosen.sha256, batch=chosen.batch, device=device())
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
        with TableWriter(kept, "features", {**_meta(extractor), _DRAWN: drawn.get(_DRAWN, "")}) as writer:
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


class FeatureSet:
    """The feature tables of one extractor, by take.

    Args:
        paths: Feature tables; all of one extractor.

    Raises:
        LeanmotionError: Tables of different extractors, of clips drawn with different settings, or a take twice.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._takes: dict[tuple[str, str, str], pd.DataFrame] = {}
        self.meta: dict[str, str] = {}
        self.drawn = ""
        for path in paths:
            table = read_table(path, "features")
            meta = {k: v for k, v in table_meta(table).items() if k.startswith("extractor")}
            drawn = table_meta(table).get(_DRAWN, "")
            if self.meta and meta != self.meta:
                raise LeanmotionError(f"{path}: features of another extractor than the rest: `dvc repro embed`")
            if self._takes and drawn != self.drawn:
                raise LeanmotionError(f"{path}: of clips drawn with other settings than the rest: `dvc repro`")
            self.meta, self.drawn = meta, drawn
            for key, group in table.to_pandas().groupby(["variant", "split", "seeds"], sort=False):
                if key in self._takes:
                    raise LeanmotionError(f"{path}: holds {key} a second time: `dvc repro embed`")
                self._takes[key] = group.reset_index(drop=True)  # pyright: ignore[reportArgumentType]

    def adopt(self, other: "FeatureSet", variant: str, *, as_variant: str) -> None:
        """Take over another set's variant under a name of its own.

        Raises:
            LeanmotionError: It is of another extractor, or of clips drawn with other settings.
        """
        if other.meta != self.meta:
            raise LeanmotionError(f"features of {as_variant} are of another extractor than the original's: `dvc repro`")
        if other.drawn != self.drawn:
            raise LeanmotionError(
                f"clips of {as_variant} were drawn with other settings than the original's: `dvc repro`"
            )
        for (name, split, seeds), rows in other._takes.items():
            if name == variant:
                self._takes[as_variant, split, seeds] = rows

    def take(self, variant: str, split: str, seeds: str) -> pd.DataFrame:
        """Rows of one take."""
        try:
            return self._takes[variant, split, seeds]
        except KeyError:
            raise LeanmotionError(f"no features of {variant!r}, split {split}, seeds {seeds}: `dvc repro`") from None

    def features(self, variant: str, split: str, seeds: str) -> np.ndarray:
        """Features [clips, dimensions] of one take, float64."""
        return np.stack(self.take(variant, split, seeds)["features"].to_list()).astype(np.float64)

    def motion(self, variant: str, split: str, seeds: str) -> np.ndarray:
        """Motion descriptors [clips, cells] of one take, float64."""
        return np.stack(self.take(variant, split, seeds)["motion"].to_list()).astype(np.float64)

    @property
    def variants(self) -> list[str]:
        """Names of all variants, in order."""
        return list(dict.fromkeys(variant for variant, _, _ in self._takes))


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
    code = code_digest("features.extractors", "features.features", "features.sprites_reader", "videos.codec")
    return hashlib.sha256(json.dumps([content, _meta(extractor), code], sort_keys=True).encode()).hexdigest()
