"""The paths that settings name. DVC watches each of them as a dependency, so that each has to exist.

Two kinds of small files stand for what is no path. A *built-in* stands for something that leanmotion brings along, or
for nothing at all: its first line says which. A *pin* is a YAML file that names a model of the hub and its commit: then
what the setting names is another only where the file is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.setting_errors import first_problem
from leanmotion.pipeline.sources import restore

if TYPE_CHECKING:
    from leanmotion.pipeline.settings import Settings


@dataclass(frozen=True)
class Watched:
    """Marks a setting that names a path; `takes`: what it may name, in words."""

    takes: str


def _no_null(value: object) -> object:
    """DVC stops at a null dependency without saying where."""
    if value is None:
        raise ValueError("is null: write builtin/none, which DVC can watch")
    return value


WeightsPath = Annotated[
    str, Watched("a folder, a weights file, or a pin (a YAML file that names a model of the hub, as in presets/hub/)")
]
PromptsPath = Annotated[str, Watched("a text file, one prompt a line, or builtin/sprites-captions")]
VideosPath = Annotated[str, BeforeValidator(_no_null), Watched("the folder of videos, or builtin/none")]
ClipPath = Annotated[
    str, BeforeValidator(_no_null), Watched("the folder of a CLIP model, a pin of one on the hub, or builtin/none")
]
CaptionsPath = Annotated[str, BeforeValidator(_no_null), Watched("the captions file, or builtin/none")]

SPRITES_CAPTIONS = "sprites captions"
"""The name of a built-in, as in the first line of `builtin/sprites-captions`."""
_BUILT_IN = b"# leanmotion built-in: "
_LONGEST = 100
_PINS = {".yaml", ".yml"}


class Pin(BaseModel):
    """A model of the hub: `owner/name`, or one file in it, `owner/name/file`; and its commit, None for the newest."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    hub: Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None


def built_in(path: str | Path) -> str | None:
    """The name of the built-in that a file stands for; None for any other file, a folder, or what is not there."""
    if not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        line = file.readline(_LONGEST)
    if not line.startswith(_BUILT_IN):
        return None
    return line.removeprefix(_BUILT_IN).decode("utf-8", "replace").strip()


def read_pin(path: str | Path, setting: str) -> Pin | None:
    """What a pin says; None where the path is no YAML file, and so no pin.

    Args:
        path: Of the file, or of what else the setting names.
        setting: Its name, for the message.

    Raises:
        LeanmotionError: A YAML file that is no pin.
    """
    path = Path(path)
    if path.suffix not in _PINS or not path.is_file():
        return None
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LeanmotionError(f"{setting}: {path} is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise LeanmotionError(f"{setting}: {path} pins nothing: write `hub: owner/name`, and `revision:` with a commit")
    try:
        return Pin.model_validate(raw)
    except ValidationError as error:
        mend = "a pin holds `hub: owner/name` and `revision:`, a commit of 40 digits or null"
        raise LeanmotionError(f"{setting}: {path}: {first_problem(error, Pin)}: {mend}") from error


def watched(settings: "Settings") -> Iterator[tuple[str, str, str]]:
    """Every setting that names a path, as `section.key`, with the path and what may be written there."""
    for section in type(settings).model_fields:
        model = getattr(settings, section)
        for key, field in getattr(type(model), "model_fields", {}).items():
            for mark in field.metadata:
                if isinstance(mark, Watched):
                    yield f"{section}.{key}", getattr(model, key), mark.takes


def check_paths(settings: "Settings") -> None:
    """Refuse settings that name nothing that is there. Pins are read where what they name is loaded.

    Raises:
        LeanmotionError: A path is missing; or clips are to come from a folder, and none is named.
    """
    for setting, path, takes in watched(settings):
        if not _is_there(path):
            raise LeanmotionError(f"{setting}: {path} is missing: {restore(path)}, or name {takes}")
    if settings.clips.source == "folder":
        clips_folder(settings)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def clips_folder(settings: "Settings") -> tuple[str, str]:
    """The folder of videos and the captions file of `clips`.

    Raises:
        LeanmotionError: One of them is not named.
    """
    chosen = settings.clips
    for setting, path in (("clips.path", chosen.path), ("clips.captions", chosen.captions)):
        if built_in(path) is not None:
            raise LeanmotionError(
                f"{setting} is {path}, and clips.source is folder: name the folder of videos and its captions file"
            )
    return chosen.path, chosen.captions
