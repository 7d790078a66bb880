"""How an adapter was judged: the sampler's settings that a pruned folder carries, and a pipeline that draws by them."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import diffusers

from leanmotion.errors import LeanmotionError
from leanmotion.model.sampler import make_scheduler
from leanmotion.pipeline.settings import Sampling

_NUMBERS = ("frames", "height", "width", "steps", "guidance")
_CALLED = dict(zip(_NUMBERS, ("num_frames", "height", "width", "num_inference_steps", "guidance_scale"), strict=True))
"""What a pipeline's call names them."""


def judged_sampling(sampling: Sampling, scheduler: Any, negative: str = "") -> dict[str, Any]:
    """What a pruned folder says of how its evidence was drawn, as plain JSON.

    Args:
        sampling: the sampler's settings.
        scheduler: of the base; `sampling.scheduler` says what is made of it.
        negative: the negative prompt.

    Returns:
        Frames, size, steps and guidance, the negative prompt, and the scheduler that was sampled with: its class and
        whole configuration.
    """
    made = make_scheduler(scheduler, sampling.scheduler)
    config = {k: v for k, v in json.loads(made.to_json_string()).items() if k != "_diffusers_version"}
    return {**{name: getattr(sampling, name) for name in _NUMBERS}, "negative": negative, "scheduler": config}


def judged_scheduler(judged: Mapping[str, Any]) -> Any:
    """The scheduler that `judged_sampling` noted.

    Raises:
        LeanmotionError: this version of diffusers has none of that name.
    """
    config = dict(judged["scheduler"])
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
        raise LeanmotionError(
            f"pruned adapter: was judged with a {config.get('_class_name')}, which diffusers {diffusers.__version__} "
            "does not have: update diffusers"
        )
    return kind.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]


class AnimateDiffPipeline(diffusers.AnimateDiffPipeline):
    """diffusers' pipeline, whose calls sample as the adapter was judged wherever they do not say otherwise.

    Named like the stock one: that name is what `save_pretrained` writes into `model_index.json`.
    """

    judged: Mapping[str, Any]

    @classmethod
    def of(cls, judged: Mapping[str, Any], **parts: Any) -> "AnimateDiffPipeline":
        """A pipeline of these parts, but for the scheduler, which is the one that was judged with."""
        pipeline = cls(**{**parts, "scheduler": judged_scheduler(judged)})
        pipeline.judged = dict(judged)
        return pipeline

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers; frames, size, steps, guidance and negative prompt are by default those of the evidence."""
        given = _SIGNATURE.bind(self, *args, **kwargs).arguments
        wanted = {called: self.judged[name] for name, called in _CALLED.items()}
        if self.judged["negative"] and not given.keys() & {"prompt_embeds", "negative_prompt_embeds"}:
            negative, prompt = self.judged["negative"], given.get("prompt")
            wanted["negative_prompt"] = [negative] * len(prompt) if isinstance(prompt, list) else negative
        more = given.pop("kwargs", {})
        return super().__call__(**{**wanted, **{k: v for k, v in given.items() if k != "self"}, **more})


_SIGNATURE = inspect.signature(diffusers.AnimateDiffPipeline.__call__)
AnimateDiffPipeline.__call__.__signature__ = _SIGNATURE  # pyright: ignore[reportFunctionMemberAccess]
