"""diffusers' AnimateDiff pipeline around a UNet with removed units: samples as judged, and saves what loads again."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import diffusers
import torch

from leanmotion.errors import LeanmotionError
from leanmotion.model.judged_sampling import NUMBERS, judged_scheduler
from leanmotion.model.motion_state import full_motion_state

_CALLED = dict(zip(NUMBERS, ("num_frames", "height", "width", "num_inference_steps", "guidance_scale"), strict=True))
"""What a pipeline's call names the settings that are carried."""
_SIGNATURE = inspect.signature(diffusers.AnimateDiffPipeline.__call__)


class AnimateDiffPipeline(diffusers.AnimateDiffPipeline):
    """diffusers' pipeline, whose calls sample as the adapter was judged wherever they do not say otherwise.

    Named like the stock one: that name is what `save_pretrained` writes into `model_index.json`. What is saved has the
    full shape, removed units doing nothing, so that stock diffusers loads it again.
    """

    judged: Mapping[str, Any]

    @classmethod
    def of(cls, pipeline: Any, judged: Mapping[str, Any]) -> "AnimateDiffPipeline":
        """The parts of a pipeline, with the scheduler that was judged with; its own where nothing is said."""
        parts = dict(pipeline.components)
        if judged:
            parts["scheduler"] = judged_scheduler(judged)
        made = cls(**parts)
        made.judged = dict(judged)
        made.unet.save_pretrained = partial(save_whole, made.unet)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers; frames, size, steps, guidance and negative prompt are by default those of the evidence.

        Raises:
            LeanmotionError: more frames than the adapter has positions.
        """
        given = _SIGNATURE.bind(self, *args, **kwargs).arguments
        given.pop("self")
        wanted = {called: self.judged[name] for name, called in _CALLED.items() if self.judged}
        if self.judged.get("negative") and not given.keys() & {"prompt_embeds", "negative_prompt_embeds"}:
            negative, prompt = self.judged["negative"], given.get("prompt")
            wanted["negative_prompt"] = [negative] * len(prompt) if isinstance(prompt, list) else negative
        more = given.pop("kwargs", {})
        wanted |= given
        longest = self.unet.config.motion_max_seq_length
        if (wanted.get("num_frames") or 0) > longest:
            raise LeanmotionError(f"num_frames {wanted['num_frames']}: the adapter has positions for {longest} at most")
        return super().__call__(**wanted, **more)

    def enable_free_noise(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: FreeNoise rebuilds motion modules, and wants all of them.

        Raises:
            LeanmotionError: always.
        """
        raise LeanmotionError("FreeNoise takes whole motion modules: load the portable form with diffusers instead")

    enable_free_noise_split_inference = enable_free_noise


AnimateDiffPipeline.__call__.__signature__ = _SIGNATURE  # pyright: ignore[reportFunctionMemberAccess]


def save_whole(
    unet: Any, folder: Any, *, safe_serialization: bool = True, variant: str | None = None, **options: Any
) -> None:
    """`save_pretrained` of a UNet with removed units: in full shape, in which they do exactly nothing.

    Stock loading would fill what is missing with anything that lies in memory, and only warn. The options are those of
    `save_pretrained`, of which a pipeline looks up two by name.

    Raises:
        LeanmotionError: layers were added to it, such as a LoRA's.
    """
    with torch.device("meta"):
        whole: Any = diffusers.UNetMotionModel.from_config(unet.config)
    state = {**unet.state_dict(), **full_motion_state(unet)}
    if added := state.keys() - whole.state_dict().keys():
        raise LeanmotionError(f"{folder}: the UNet has layers of others ({min(added)}): unload them, then save")
    whole.load_state_dict(state, assign=True)
    whole.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant, **options)
