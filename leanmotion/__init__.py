"""leanmotion: find, delete and repair the motion blocks of AnimateDiff that do not earn their cost.

What users import; everything is loaded when it is first asked for, as diffusers takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leanmotion.errors import LeanmotionError
    from leanmotion.model.pruned_adapter import load_pruned_pipeline
    from leanmotion.model.removal import remove_units
    from leanmotion.model.units import list_units

__all__ = ["LeanmotionError", "list_units", "load_pruned_pipeline", "remove_units"]

_HOMES = {
    "LeanmotionError": "errors",
    "list_units": "model.units",
    "load_pruned_pipeline": "model.pruned_adapter",
    "remove_units": "model.removal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leanmotion' has no attribute {name!r}")
    return getattr(import_module(f"leanmotion.{_HOMES[name]}"), name)
