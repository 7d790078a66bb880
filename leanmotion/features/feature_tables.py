"""Feature tables, read: which take has which features, and that all are of one extractor and one way of drawing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.tables import read_table, table_meta

HEADS = ("colour", "shape", "motion")
"""What the sprites extractor reads off a clip; `labels` in the feature table holds them in this order."""
DRAWN = "sampling"
"""Key of a table's meta: the settings that its clips were drawn with."""


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
            drawn = table_meta(table).get(DRAWN, "")
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
