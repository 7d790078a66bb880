"""What the real DVC says of each stage, and other values of settings."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.utils import strictyaml
from dvc.utils.serialize import _yaml
from pydantic import BaseModel
from warm import parse_once

from leanmotion.pipeline.settings import Settings


@dataclass(frozen=True)
class Stage:
    """A stage as DVC resolves it. `settings`: those that it hangs on, `""` for all; `files`: its other dependencies;
    `changed`: whether `dvc status` says so of the stage itself, not of what it is behind.
    """

    command: str
    settings: frozenset[str]
    files: frozenset[str]
    changed: bool = field(compare=False)

    def covers(self, setting: str) -> bool:
        """Whether it hangs on this setting."""
        return any(setting == one or not one or setting.startswith(f"{one}.") for one in self.settings)


def stages_of(folder: Path) -> dict[str, Stage]:
    """Every stage of a project by its name, those of families one by one: what the real DVC says of them now."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # else DVC names stages by the way to their dvc.yaml
        for module in (strictyaml, _yaml):
            patch.setattr(module, "parse_yaml", parse_once)
        with Repo() as repo, repo.lock:
            for stage in repo.index.stages:
                params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
                settings = frozenset(name for dep in params for name in dep.params or [""])
                files = frozenset(dep.def_path for dep in stage.deps if dep not in params)
                found[stage.addressing] = Stage(str(stage.cmd), settings, files, bool(stage.status(check_updates=True)))
    return found


def other_value(settings: Settings, name: str) -> Any:
    """Another valid value of a setting that names no path; None where there is none.

    Args:
        settings: All settings.
        name: Of a single one, as `sampling.steps`.
    """
    raw = settings.model_dump(by_alias=True)
    *place, key = name.split(".")
    section = functools.reduce(lambda part, step: part[step], place, raw)
    own = section[key]
    for value in [other for other in _others(own, _annotation(name)) if other != own]:
        section[key] = value
        try:
            Settings.model_validate(raw)
        except ValueError:
            continue
        return value
    return None


def _others(value: Any, annotation: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value + 8, value - 1, value / 2, value + 0.1)
    elif isinstance(value, list):
        yield from (value[::-1], value[:-1])
    elif value is None:
        yield from ("0" * 64, 4)
    else:
        yield from [*_words(annotation), f"{value} too", "base", [f"{value}.attention"]]


def _words(annotation: Any) -> list[str]:
    """The words that a setting may be, where it is one of some."""
    return [word for part in get_args(annotation) for word in ([part] if isinstance(part, str) else _words(part))]


def _annotation(name: str) -> Any:
    annotation: Any = Settings
    for step in name.split("."):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            fields = {field.alias or key: field for key, field in annotation.model_fields.items()}
            annotation = fields[step].annotation
        else:  # rounds and probe sets, by name
            annotation = next(part for part in get_args(annotation) if isinstance(part, type) and part is not str)
    return annotation
