"""Which settings a stage's code reads: noted while it runs, in a process that ends with it."""

import atexit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from leanmotion.pipeline.settings import Settings


def note(main: Callable[..., Any], file: Path) -> None:
    """From now on, note what is read of the settings that a stage's `main` loads; at the end add it to the file."""
    load = main.__globals__["load_settings"]

    def loaded(path: Path) -> Settings:
        settings = load(path)
        # From here on: the checks of loading read everything.
        read = noted(settings)
        atexit.register(lambda: _add(file, read))
        return settings

    main.__globals__["load_settings"] = loaded


def noted(settings: Settings) -> set[str]:
    """What is read of these settings from now on, by its name in params.yaml. Models are changed for good."""
    read: set[str] = set()
    # Sections by their class (copies too), rounds and probe sets by themselves.
    sections = {type(model): f"{name}." for name, model in settings if isinstance(model, BaseModel)}
    single = {id(model): f"rounds.{name}." for name, model in settings.rounds.items()}
    single |= {id(model): f"probe.sets.{name}." for name, model in settings.probe.sets.items()}
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
    for model in {Settings, *sections, *map(type, [*settings.rounds.values(), *settings.probe.sets.values()])}:
        model.__getattribute__ = get
    read.clear()
    return read


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


def _add(file: Path, read: set[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.writelines(f"{name}\n" for name in sorted(read))
