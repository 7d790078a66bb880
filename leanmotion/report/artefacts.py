"""Everything that the page is made from, read and verified once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.settings import Settings
from leanmotion.tables import read_frame, read_table, table_meta

BASE = "base"

# A pandas data frame. Its stubs give every cell the type of anything at all, which a reader of checked tables knows
# better: columns and their types stand in schemas.py.
Frame = Any


@dataclass(frozen=True)
class Artefacts:
    """The tables by their names. `removed`: block ids gone after each round; `losses`: a round's training steps."""

    settings: Settings
    folder: Path
    meta: Mapping[str, str]
    units: Frame
    ranking: Frame
    pairs: Frame
    correlations: Frame
    probes: Frame
    similarity: Frame
    profile: Frame
    latency: Frame
    evaluation: Frame
    selection: Mapping[str, Any]
    null: Mapping[str, Any]
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
    def blocks(self) -> list[str]:
        """All motion blocks in the model's order."""
        return self.whole_blocks["block"].tolist()

    @property
    def whole_blocks(self) -> Frame:
        """The units that are whole motion blocks, one row each."""
        return self.units[self.units["granularity"] == "temporal_transformer"]

    @property
    def official(self) -> bool:
        """Whether the extractor is the I3D of published FVD values."""
        return self.meta.get("extractor_official") == "true"


def read_artefacts(settings: Settings, data: Path, metrics: Path) -> Artefacts:
    """Read all that the report needs.

    Raises:
        LeanmotionError: Something is missing, damaged, or of rounds that the settings do not list.
    """
    ranking = read_table(data / "ranking.parquet", "ranking")
    students = {name: _json(data / "students" / name / "student.json") for name in settings.rounds}
    selection = _json(metrics / "selection.json")
    chosen = selection.get("round")
    if chosen != BASE and chosen not in settings.rounds:
        raise LeanmotionError(
            f"{metrics / 'selection.json'}: round {chosen!r} is not in params.yaml: `dvc repro select`"
        )

    def read(name: str, artefact: str | None = None) -> Frame:
        return read_frame(data / f"{name}.parquet", artefact or name)

    return Artefacts(
        settings=settings,
        folder=data,
        meta=table_meta(ranking),
        units=read("units"),
        ranking=ranking.to_pandas().sort_values("position", ignore_index=True),
        pairs=read("pairs"),
        correlations=read("correlations"),
        probes=read("probes"),
        similarity=read("similarity"),
        profile=read("profile").set_index("variant", drop=False),
        latency=read("latency", "profile").set_index("variant", drop=False),
        evaluation=read("evaluation"),
        selection=selection,
        null=_json(metrics / "ranking.json"),
        teacher=_json(data / "teacher.json"),
        removed={BASE: [], **{name: list(student["removed"]) for name, student in students.items()}},
        weights={name: str(student.get("weights", "")) for name, student in students.items()},
        losses={name: read(f"students/{name}/losses", "losses") for name in settings.rounds},
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LeanmotionError(f"{path}: missing: `dvc repro` makes it") from None
    except ValueError as error:
        raise LeanmotionError(f"{path}: not JSON ({error}): delete it, then `dvc repro`") from error
