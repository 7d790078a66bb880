"""What decides a stage's result: which settings its code reads, by running it here; and what the real DVC answers."""

import copy
import functools
import importlib.util
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.utils import strictyaml
from dvc.utils.serialize import _yaml
from pydantic import BaseModel

from leanmotion.pipeline.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]


def leaves(value: Any, name: str = "") -> Iterator[str]:
    """Names of all single settings of a params.yaml, as `sampling.steps`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name


class _Noting(dict):
    """Rounds or probe sets, that note where their names are asked for: one by name is noted by what is read of it."""

    def __init__(self, name: str, models: dict[str, Any], read: set[str]) -> None:
        super().__init__(models)
        self.all = lambda: read.add(name)

    def __iter__(self) -> Any:
        self.all()
        return super().__iter__()

    def keys(self) -> Any:
        self.all()
        return super().keys()

    def items(self) -> Any:
        self.all()
        return super().items()

    def values(self) -> Any:
        self.all()
        return super().values()

    def __len__(self) -> int:
        self.all()
        return super().__len__()


def _places(settings: Settings) -> tuple[dict[type, str], dict[int, str]]:
    """Where models stand in params.yaml: sections by their class (copies too), rounds and probe sets by themselves."""
    sections = {type(model): f"{name}." for name, model in settings if isinstance(model, BaseModel)}
    single = {id(model): f"rounds.{name}." for name, model in settings.rounds.items()}
    single |= {id(model): f"probe.sets.{name}." for name, model in settings.probe.sets.items()}
    return sections, single


@contextmanager
def noting(settings: Settings) -> Iterator[set[str]]:
    """Inside, all that is read of these settings is noted, by its name in params.yaml."""
    read: set[str] = set()
    sections, single = _places(settings)
    plain = BaseModel.__getattribute__

    def get(self: BaseModel, name: str) -> Any:
        place = "" if type(self) is Settings else sections.get(type(self)) or single.get(id(self))
        if place is not None and name in {"model_dump", "model_dump_json"}:
            read.update(leaves(BaseModel.model_dump(self, by_alias=True), place.removesuffix(".")))
        if place and (known := type(self).model_fields.get(name)) and f"{place}{name}" != "probe.sets":
            read.add(f"{place}{known.alias or name}")
        return plain(self, name)

    inside: Any = settings.__dict__  # models are frozen
    inside["rounds"] = _Noting("rounds", settings.rounds, read)
    inside["probe"].__dict__["sets"] = _Noting("probe.sets", settings.probe.sets, read)
    with pytest.MonkeyPatch.context() as patch:
        for model in {Settings, *sections, *map(type, [*settings.rounds.values(), *settings.probe.sets.values()])}:
            patch.setattr(model, "__getattribute__", get)
        read.clear()
        yield read


def reads_of(command: str, folder: Path) -> set[str]:
    """Run a stage's command in this process, in a project's folder; the settings that its code read."""
    script, *words = shlex.split(command)[1:]
    main, run, read = _main(script), typer.Typer(), set[str]()
    run.command()(main)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:

        def load(path: Path) -> Settings:
            # Noted from here on: the checks of loading read everything.
            settings = load_settings(path)
            stack.callback(read.update, stack.enter_context(noting(settings)))
            return settings

        patch.chdir(folder)
        patch.delenv("LEANMOTION_SCRATCH", raising=False)
        patch.setitem(main.__globals__, "load_settings", load)
        typer.main.get_command(run).main(words, standalone_mode=False)
    return read


@functools.cache
def _main(script: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"stage_{Path(script).stem}", ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


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
            patch.setattr(module, "parse_yaml", _parse_once)
        with Repo() as repo, repo.lock:
            for stage in repo.index.stages:
                params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
                settings = frozenset(name for dep in params for name in dep.params or [""])
                files = frozenset(dep.def_path for dep in stage.deps if dep not in params)
                found[stage.addressing] = Stage(str(stage.cmd), settings, files, bool(stage.status(check_updates=True)))
    return found


_PARSE, _PARSED = _yaml.parse_yaml, dict[Any, Any]()


def _parse_once(text: str, *words: Any, **more: Any) -> Any:
    """DVC parses params.yaml anew for every stage, in pure Python: most of the time that a status takes."""
    key = (text, words, *more.items())
    if key not in _PARSED:
        _PARSED[key] = _PARSE(text, *words, **more)
    return copy.deepcopy(_PARSED[key])


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
        yield "0" * 64
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
