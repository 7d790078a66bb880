"""What pydantic found wrong in params.yaml, in one line that names the setting and the mend."""

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from leanmotion.errors import did_you_mean


def first_problem(error: ValidationError, settings: type[BaseModel]) -> str:
    """The first problem, as `setting: what is wrong`; unknown keys with the nearest known one."""
    # A misspelt key is also a missing one: the misspelling is what the user can mend.
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    place = [str(part) for part in problem["loc"] if str(part) not in {"literal['motion']", "list[str]", "[key]"}]
    name = ".".join(place) or "settings"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(place[:-1], settings)
        return f"{name}: unknown setting{did_you_mean(place[-1], known) or f': known are {known}'}"
    if problem["type"] == "missing":
        return f"{name}: missing: add it"
    if problem["type"] == "value_error":
        text = str(problem["msg"]).removeprefix("Value error, ")
        return text if not place else f"{name} {text}"
    hint = ": YAML reads 1.0e-3 as one" if problem["type"] == "float_type" and "e" in str(problem["input"]) else ""
    return f"{name} is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}{hint}"


def _known_keys(place: list[str], settings: type[BaseModel]) -> list[str]:
    """Names of the settings at a place; a mapping's own key (a round, a probe set) names no model and is passed."""
    model: type[BaseModel] | None = settings
    for part in place:
        fields = {(f.alias or n): f.annotation for n, f in model.model_fields.items()}
        if part in fields:
            model = _model_in(fields[part])
        if model is None:
            return []
    return [(f.alias or n) for n, f in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
