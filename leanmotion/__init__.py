"""leanmotion: find, delete and repair the motion blocks of AnimateDiff that do not earn their cost.

What users import; everything is loaded when it is first asked for, as diffusers takes seconds to import.
`examples/by_hand.py` is the tour: the whole method, from a loaded teacher to a lighter adapter, by these names alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leanmotion.adapter import load_pruned_pipeline, save_pruned
    from leanmotion.captions import CaptionEncoder
    from leanmotion.clips import encode_clips
    from leanmotion.distillation import DistillationSettings
    from leanmotion.drawing import Drawing
    from leanmotion.errors import LeanmotionError
    from leanmotion.extractors import load_extractor
    from leanmotion.fvd import frechet_distance
    from leanmotion.ranking import rank_blocks
    from leanmotion.removal import remove_units, without_units
    from leanmotion.sampling import Request, Sampler
    from leanmotion.settings import Sampling, Teacher
    from leanmotion.similarity import measure_similarity, similarity_ranges
    from leanmotion.teacher import load_pipeline
    from leanmotion.training import distil
    from leanmotion.units import list_units

__all__ = [
    "CaptionEncoder",
    "DistillationSettings",
    "Drawing",
    "LeanmotionError",
    "Request",
    "Sampler",
    "Sampling",
    "Teacher",
    "distil",
    "encode_clips",
    "frechet_distance",
    "list_units",
    "load_extractor",
    "load_pipeline",
    "load_pruned_pipeline",
    "measure_similarity",
    "rank_blocks",
    "remove_units",
    "save_pruned",
    "similarity_ranges",
    "without_units",
]

_HOMES = {
    "CaptionEncoder": "captions",
    "DistillationSettings": "distillation",
    "Drawing": "drawing",
    "LeanmotionError": "errors",
    "Request": "sampling",
    "Sampler": "sampling",
    "Sampling": "settings",
    "Teacher": "settings",
    "distil": "training",
    "encode_clips": "clips",
    "frechet_distance": "fvd",
    "list_units": "units",
    "load_extractor": "extractors",
    "load_pipeline": "teacher",
    "load_pruned_pipeline": "adapter",
    "measure_similarity": "similarity",
    "rank_blocks": "ranking",
    "remove_units": "removal",
    "save_pruned": "adapter",
    "similarity_ranges": "similarity",
    "without_units": "removal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leanmotion' has no attribute {name!r}")
    return getattr(import_module(f"leanmotion.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
