"""What single settings may be: numbers with bounds, names, lists without repetition."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
BlockId = Annotated[str, Field(pattern=r"^(down_\d+|mid|up_\d+)_\d+$")]
RoundId = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


def each_once(values: list[Any]) -> list[Any]:
    """The list, if nothing is in it twice; else a `ValueError` that names what is."""
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"lists {', '.join(map(str, twice))} twice: name each once")
    return values


class Section(BaseModel):
    """A section of params.yaml: no other names than these, values as they are written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
