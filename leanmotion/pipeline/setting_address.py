"""Settings, and code that came with them, as they count in addresses of stored work."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class AsBefore:
    """Of a setting that was added later, the value at which all is as it was before there was one.

    `fused: Annotated[bool, AsBefore(False)] = False`. At that value, whatever its default is or becomes, the setting is
    left out of addresses: work that was stored before keeps its own.
    """

    value: Any


def addressed(settings: BaseModel) -> dict[str, Any]:
    """All settings of a section by name, without those that are as before there were such settings."""
    fields = type(settings).model_fields
    return {k: v for k, v in settings.model_dump().items() if AsBefore(v) not in fields[k].metadata}


def added(on: bool) -> bool:
    """Whether a setting that was added later is other than before there was one.

    `if added(teacher.motion_norm == "frame"):`, which has no `else`, is left out of addresses of code
    (`pipeline/normal_form.py`): where it is off, work that was stored before keeps its own. Where it is on, whatever is
    stored has to say so, with an address of the code inside; but for a shorter way to the very same value
    (`pipeline/digests.py: file_sha256`), for refusals, and for reading what was refused before.
    """
    return on
