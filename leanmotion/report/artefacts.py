"""Everything that the page is made from, read and verified once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.model.student import Student
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import read_frame, read_table, table_meta
from leanmotion.ranking.rounding import UNIT

BASE = "base"

# A pandas data frame. Its stubs give every cell the type of anything at all, which a reader of checked tables knows
# better: columns and their types stand in schemas.py.
Frame = Any


@dataclass(frozen=True)
class Artefacts:
    """The tables by their names; `confirmed` is empty where no round was chosen, under the other norm where not asked.

    `removed`: block ids gone after each round; `losses`: a round's training steps.
    """

    settings: Settings
    folder: Path
    meta: Mapping[str, str]
    units: Frame
    ranking: Frame
    pairs: Frame
    correlations: Frame
    criteria: Frame
    interaction: Frame
    probes: Frame
    similarity: Frame
    profile: Frame
    latency: Frame
    evaluation: Frame
    confirmed: Frame
    confirmed_under_other_norm: Frame
    selection: Mapping[str, Any]
    teacher: Mapping[str, Any]
    removed: Mapping[str, list[str]]
    weights: Mapping[str, str]
    losses: Mapping[str, Frame]

    @property
    def rounds(self) -> list[str]:
        """Rounds, fewest deletions first."""
        return sorted(self.settings.rounds, key=lambda name: (len(self.removed[name]), name))

    @property
    def chosen(self) -> str:
        """The selected round; `base` where nothing is deleted."""
        return str(self.selection["round"])

    @property
    def repaired(self) -> frozenset[str]:
        """Rounds whose clips training changed, by all digits; the others draw to the bit what they drew before it."""
        spread = self.evaluation.groupby(["round", "split"])["fvd"].nunique()
        return frozenset(str(name) for name, _ in spread.index[spread.to_numpy() > 1])

    def not_repaired(self, name: str) -> str:
        """Why a round that is not among the repaired is as it was pruned."""
        if not set(self.blocks) - set(self.removed[name]):
            return "no motion block is left to train"
        return "training was tried and not kept" if len(self.losses[name]) else "nothing was trained"

    @property
    def bare(self) -> list[str]:
        """Rounds that delete every motion block, and so are the very model that stands for the ceiling of any gain."""
        return [name for name in self.rounds if set(self.blocks) <= set(self.removed[name])]

    @property
    def blocks(self) -> list[str]:
        """All motion blocks in the model's order."""
        return self.whole_blocks["block"].tolist()

    @property
    def whole_blocks(self) -> Frame:
        """The units that are whole motion blocks, one row each."""
        return self.units[self.units["granularity"] == "temporal_transformer"]

    def figure(self, name: str) -> float | None:
        """A number of the ranking's meta: `null_<measure>`, `split_half_tau` or `videos_to_settle`."""
        value = float(self.meta.get(name, "nan"))
        return value if math.isfinite(value) else None

    @property
    def nulls(self) -> dict[str, float | None]:
        """Measure -> null on the rank split, by which CSV files are rounded."""
        measured = ("fvd", "kvd", "paired", "motion")
        return {"similarity": UNIT, **{name: self.figure(f"null_{name}") for name in measured}}

    @property
    def official(self) -> bool:
        """Whether the extractor is the I3D of published FVD values."""
        return self.meta.get("extractor_official") == "true"


def read_artefacts(settings: Settings, data: Path) -> Artefacts:
    """Read all that the report needs.

    Raises:
        LeanmotionError: Something is missing, damaged, or of rounds that the settings do not list.
    """
    ranking = read_table(data / "ranking.parquet", "ranking")
    students = {name: Student.read(data / "students" / name) for name in settings.rounds}
    selection = read_record(data / "selection.json", made_by="dvc repro select")
    chosen = selection.get("round")
    if chosen != BASE and chosen not in settings.rounds:
        raise LeanmotionError(f"{data / 'selection.json'}: round {chosen!r} is not in params.yaml: `dvc repro select`")

    def read(name: str, artefact: str | None = None) -> Frame:
        return read_frame(data / f"{name}.parquet", artefact or name)

    confirmed = _confirmed(read("confirm"), data / "confirm.parquet", str(chosen))
    return Artefacts(
        settings=settings,
        folder=data,
        meta=table_meta(ranking),
        units=read("units"),
        ranking=ranking.to_pandas().sort_values("position", ignore_index=True),
        pairs=read("pairs"),
        correlations=read("correlations"),
        criteria=read("criteria"),
        interaction=read("interaction"),
        probes=read("probes"),
        similarity=read("similarity"),
        profile=read("profile").set_index("variant", drop=False),
        latency=read("latency", "latency").set_index("variant", drop=False),
        evaluation=read("evaluation"),
        confirmed=confirmed[confirmed["motion_norm"] == settings.teacher.motion_norm],
        confirmed_under_other_norm=confirmed[confirmed["motion_norm"] != settings.teacher.motion_norm],
        selection=selection,
        teacher=read_record(data / "teacher.json", made_by="dvc repro inspect"),
        removed={BASE: [], **{name: list(student.removed) for name, student in students.items()}},
        weights={name: student.weights for name, student in students.items()},
        losses={name: read(f"students/{name}/losses", "losses") for name in settings.rounds},
    )


def _confirmed(rows: Frame, path: Path, chosen: str) -> Frame:
    if set(rows["round"]) != ({chosen} - {BASE}):
        raise LeanmotionError(f"{path}: is not of round {chosen}, which was chosen: `dvc repro confirm`")
    return rows
