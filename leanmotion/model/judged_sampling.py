"""How an adapter was judged: the sampler's settings that a pruned folder carries."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.model.sampler import make_scheduler
from leanmotion.pipeline.settings import Sampling

NUMBERS = ("frames", "height", "width", "steps", "guidance")
"""Settings of `sampling` that are carried."""


def judged_sampling(sampling: Sampling, scheduler: Any, negative: str = "") -> dict[str, Any]:
    """What a pruned folder says of how its evidence was drawn, as plain JSON.

    Args:
        sampling: the sampler's settings.
        scheduler: of the base; `sampling.scheduler` says what is made of it.
        negative: the negative prompt.

    Returns:
        Frames, size, steps and guidance, the negative prompt, and the scheduler that was sampled with: its class and
        whole configuration.

    Raises:
        LeanmotionError: the scheduler has nothing that `sampling.scheduler` could be made of.
    """
    made = make_scheduler(scheduler, sampling.scheduler)
    config = {k: v for k, v in json.loads(made.to_json_string()).items() if k != "_diffusers_version"}
    return {**{name: getattr(sampling, name) for name in NUMBERS}, "negative": negative, "scheduler": config}


def judged_scheduler(judged: Mapping[str, Any]) -> Any:
    """The scheduler that `judged_sampling` noted.

    Raises:
        LeanmotionError: this version of diffusers has none of that name.
    """
    import diffusers

    config = dict(judged["scheduler"])
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
        raise LeanmotionError(
            f"pruned adapter: was judged with a {config.get('_class_name')}, which diffusers {diffusers.__version__} "
            "does not have: update diffusers"
        )
    return kind.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]
