"""The one list of refusals that settings and files alone can cause, in the order in which they are quickly found."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanmotion.clips.sources import check_folder, check_shape
from leanmotion.cost.inspection import check_adapter, check_pipeline, checked_fingerprint
from leanmotion.distillation.rounds import check_training
from leanmotion.evaluation.clip_scores import open_clip
from leanmotion.evaluation.evaluation import scenes_of
from leanmotion.evaluation.selection import check_rule
from leanmotion.export.export import check_place
from leanmotion.features.embedding import open_extractor
from leanmotion.features.motion import motion_descriptor
from leanmotion.model.compiling import check_compiler
from leanmotion.model.sampler import working_scheduler
from leanmotion.model.teacher import load_base, load_motion_adapter, load_pipeline, weight_files
from leanmotion.model.units import list_units
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.watched_paths import check_paths
from leanmotion.probing.probe_sets import check_counts
from leanmotion.prompts.splits import load_prompts

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline

    from leanmotion.features.extractors import Extractor


class Opened:
    """What settings name, each opened once, when it is first asked for.

    Args:
        settings: all settings.
        export: the folder that the adapter will be handed over in.

    Each property raises `LeanmotionError` where what it opens is missing, damaged or of another kind.
    """

    def __init__(self, settings: Settings, export: Path = Path("data/export")) -> None:
        self.settings, self.export = settings, export

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every file that loading the teacher reads, by name."""
        return weight_files(self.settings.teacher)

    @cached_property
    def prompts(self) -> list[str]:
        """All prompts."""
        return load_prompts(self.settings.prompts.source)

    @cached_property
    def confirming(self) -> list[str]:
        """Prompts that the choice is confirmed on."""
        return load_prompts(self.settings.prompts.confirm_source, "prompts.confirm_source")

    @cached_property
    def adapter(self) -> "MotionAdapter":
        """The teacher's motion adapter."""
        return load_motion_adapter(self.settings.teacher)

    @cached_property
    def extractor(self) -> "Extractor":
        """The extractor of features."""
        return open_extractor(self.settings)

    @cached_property
    def base(self) -> "StableDiffusionPipeline":
        """The teacher's base pipeline."""
        return load_base(self.settings.teacher)

    @cached_property
    def pipeline(self) -> "AnimateDiffPipeline":
        """Base and adapter together."""
        return load_pipeline(self.settings.teacher, self.base, self.adapter)


@dataclass(frozen=True)
class Refusal:
    """A check that raises `LeanmotionError`: the stage that stops at the same, by which function, and how to ask it."""

    stage: str
    by: Callable[..., Any]
    check: Callable[[Opened], Any]


def _rule(opened: Opened) -> None:
    chosen = opened.settings
    read = chosen.extractor.name == "sprites" and scenes_of(opened.prompts) is not None
    check_rule(chosen.selection.rule, read)


def _probes(opened: Opened) -> None:
    for name, probe in opened.settings.probe.sets.items():
        check_counts(name, probe, len(list_units(opened.adapter, probe.granularity)))


def _one_clip(opened: Opened) -> None:
    """One clip through the extractor, black and still: what it gives tells whether it is of the right kind."""
    size = opened.settings.sampling
    clip = np.zeros((1, size.frames, size.height, size.width, 3), np.uint8)
    motion_descriptor(clip)
    opened.extractor.features(clip)


def _clip_model(opened: Opened) -> None:
    open_clip(opened.settings.evaluation.clip, opened.settings.extractor.batch)


REFUSALS = (
    Refusal("inspect", check_paths, lambda opened: check_paths(opened.settings)),
    Refusal("clips", check_shape, lambda opened: check_shape(opened.settings)),
    Refusal("export", check_place, lambda opened: check_place(opened.export)),
    Refusal("inspect", weight_files, lambda opened: opened.files),
    Refusal("generate", check_compiler, lambda opened: check_compiler(opened.settings.sampling.torch_compile)),
    Refusal("prompts", load_prompts, lambda opened: opened.prompts),
    Refusal("prompts", load_prompts, lambda opened: opened.confirming),
    Refusal("select", check_rule, _rule),
    Refusal("inspect", check_adapter, lambda opened: check_adapter(opened.settings, opened.adapter)),
    Refusal("probe", check_counts, _probes),
    Refusal("clips", check_folder, lambda opened: check_folder(opened.settings)),
    Refusal("embed", open_extractor, _one_clip),
    Refusal("evaluate", open_clip, _clip_model),
    Refusal(
        "generate", working_scheduler, lambda opened: working_scheduler(opened.base.scheduler, opened.settings.sampling)
    ),
    Refusal(
        "distill", check_training, lambda opened: check_training(opened.settings, opened.base.scheduler, opened.adapter)
    ),
    Refusal("inspect", checked_fingerprint, lambda opened: checked_fingerprint(opened.settings)),
    Refusal("inspect", check_pipeline, lambda opened: check_pipeline(opened.settings, opened.pipeline)),
)
"""Later stages meet these on their way: they call the same functions, or what these call."""


def refuse(settings: Settings, **places: Path) -> Opened:
    """Go through the list.

    Args:
        settings: all settings.
        places: as `Opened` takes them.

    Returns:
        What was opened on the way.

    Raises:
        LeanmotionError: the first refusal.
    """
    opened = Opened(settings, **places)
    for refusal in REFUSALS:
        refusal.check(opened)
    return opened
