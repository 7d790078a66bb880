"""leanmotion: find, delete and repair the motion blocks of AnimateDiff that do not earn their cost.

What users import; everything is loaded when it is first asked for, as diffusers takes seconds to import.
`examples/by_hand.py` is the tour: the whole method, from a loaded teacher to a lighter adapter, by these names alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from leanmotion.clips.latents import encode_clips
    from leanmotion.distillation.caption_states import CaptionEncoder
    from leanmotion.distillation.distillation_settings import DistillationSettings
    from leanmotion.distillation.sampler_steps import Drawing
    from leanmotion.distillation.training import distil
    from leanmotion.errors import LeanmotionError
    from leanmotion.export.lean import lean
    from leanmotion.features.extractors import load_extractor
    from leanmotion.model.judged_sampling import judged_sampling
    from leanmotion.model.pruned_adapter import load_pruned_pipeline, save_pruned
    from leanmotion.model.removal import remove_units, without_units
    from leanmotion.model.requests import Request
    from leanmotion.model.sampler import Sampler
    from leanmotion.model.teacher import load_pipeline
    from leanmotion.model.units import list_units
    from leanmotion.pipeline.settings import Sampling, Teacher
    from leanmotion.probing.similarity import measure_similarity
    from leanmotion.probing.similarity_tables import similarity_ranges
    from leanmotion.ranking.fvd import frechet_distance
    from leanmotion.ranking.ranking import rank_blocks

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
    "judged_sampling",
    "lean",
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
    "CaptionEncoder": "distillation.caption_states",
    "DistillationSettings": "distillation.distillation_settings",
    "Drawing": "distillation.sampler_steps",
    "LeanmotionError": "errors",
    "Request": "model.requests",
    "Sampler": "model.sampler",
    "Sampling": "pipeline.settings",
    "Teacher": "pipeline.settings",
    "distil": "distillation.training",
    "encode_clips": "clips.latents",
    "frechet_distance": "ranking.fvd",
    "judged_sampling": "model.judged_sampling",
    "lean": "export.lean",
    "list_units": "model.units",
    "load_extractor": "features.extractors",
    "load_pipeline": "model.teacher",
    "load_pruned_pipeline": "model.pruned_adapter",
    "measure_similarity": "probing.similarity",
    "rank_blocks": "ranking.ranking",
    "remove_units": "model.removal",
    "save_pruned": "model.pruned_adapter",
    "similarity_ranges": "probing.similarity_tables",
    "without_units": "model.removal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leanmotion' has no attribute {name!r}")
    from leanmotion.pipeline.notices import leave_out_vain_notices

    leave_out_vain_notices()
    try:
        return getattr(import_module(f"leanmotion.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from leanmotion.pipeline.extra import needed

        if (line := needed(error, f"leanmotion.{name}")) is None:
            raise
        raise ModuleNotFoundError(line, name=error.name) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
