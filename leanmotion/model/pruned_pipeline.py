"""diffusers' AnimateDiff pipelines around a UNet with removed units.

They sample as judged, take FreeNoise, and save what loads again.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin

from leanmotion.errors import LeanmotionError
from leanmotion.model.judged_sampling import NUMBERS, judged_scheduler
from leanmotion.model.removal import Skip, removed_units
from leanmotion.model.whole_saving import saves_whole

PIPELINES = (
    "AnimateDiffPipeline",
    "AnimateDiffVideoToVideoPipeline",
    "AnimateDiffControlNetPipeline",
    "AnimateDiffVideoToVideoControlNetPipeline",
    "AnimateDiffSparseControlNetPipeline",
    "AnimateDiffPAGPipeline",
)
"""Classes of diffusers that a pruned adapter goes into."""
_OTHERS = {
    "AnimateDiffSDXLPipeline": "is for SDXL, pruned adapters are for bases of Stable Diffusion 1.5's kind",
    "PIAPipeline": "takes PIA's own UNet, whose first convolution has 9 channels: no pruned adapter has it",
}
_CALLED = dict(zip(NUMBERS, ("num_frames", "height", "width", "num_inference_steps", "guidance_scale"), strict=True))
"""What a pipeline's call names the settings that are carried."""


def checked_class(kind: type[Any] | None, options: dict[str, Any]) -> tuple[type[Any], dict[str, Any]]:
    """The class to make, and what it takes beside a base's parts, such as a ControlNet, out of the options.

    Args:
        kind: `diffusers.AnimateDiffPipeline` where it is None.
        options: what it does not take is left in there.

    Raises:
        LeanmotionError: a class that no pruned adapter goes into, or it lacks a part.
    """
    kind = diffusers.AnimateDiffPipeline if kind is None else kind
    if not isinstance(kind, type):
        raise LeanmotionError(f"pipeline_class: {kind!r} is no class: give one of diffusers, {', '.join(PIPELINES)}")
    name = kind.__name__
    for other, why in _OTHERS.items():
        if issubclass(kind, getattr(diffusers, other)):
            raise LeanmotionError(f"pipeline_class: {name} {why}: name one of {', '.join(PIPELINES)}")
    if not issubclass(kind, tuple(getattr(diffusers, known) for known in PIPELINES)):
        raise LeanmotionError(f"pipeline_class: {name} takes no motion UNet: name one of {', '.join(PIPELINES)}")
    common = inspect.signature(diffusers.AnimateDiffPipeline.__init__).parameters
    more = {k: p for k, p in inspect.signature(kind.__init__).parameters.items() if k not in common}
    if missing := [k for k, p in more.items() if p.default is p.empty and k not in options]:
        raise LeanmotionError(f"pipeline_class: {name} needs a {missing[0]}: give {missing[0]}=...")
    return kind, {k: options.pop(k) for k in more if k in options}


def refuse_layers(base: Any) -> None:
    """Refuse a loaded base whose UNet holds layers of others, which a motion UNet made of it would lose.

    Raises:
        LeanmotionError: an IP-Adapter, or a LoRA that is not fused.
    """
    unet = base.unet
    if getattr(unet, "encoder_hid_proj", None) is not None:
        raise LeanmotionError(
            "base: holds an IP-Adapter: unload_ip_adapter(), then load_ip_adapter into the pipeline that this returns"
        )
    if any(".base_layer." in key or "lora_" in key for key in unet.state_dict()):
        raise LeanmotionError(
            "base: its UNet holds a LoRA that is not fused: load it into the pipeline that this returns; "
            "or fuse_lora() and unload_lora_weights() before"
        )


def made_of(kind: type[Any], pipeline: Any, more: Mapping[str, Any], judged: Mapping[str, Any]) -> Any:
    """A pipeline of the parts of another, and some more, with the scheduler that was judged with.

    Its calls sample as judged wherever they do not say otherwise. It is named like the stock class, as that name is
    what `save_pretrained` writes into `model_index.json`.
    """
    parts = dict(pipeline.components)
    if judged:
        parts["scheduler"] = judged_scheduler(judged)
    made = pruned_class(kind)(**parts, **more)
    made.judged = dict(judged)
    saves_whole(made.unet)
    return made


@cache
def pruned_class(stock: type[Any]) -> type[Any]:
    """A stock pipeline's class for UNets with removed units; `judged` of its objects: how they sample by default."""
    signature = inspect.signature(stock.__call__)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers; frames, size, steps, guidance and negative prompt are by default those of the evidence.

        Raises:
            LeanmotionError: more frames than the adapter has positions.
        """
        given = signature.bind(self, *args, **kwargs).arguments
        given.pop("self")
        more = given.pop("kwargs", {})
        wanted = {
            k: v
            for k, v in _as_judged(self.judged, given, "controlnet_frame_indices" in signature.parameters).items()
            if k in signature.parameters
        } | given
        _refuse_long(self, wanted)
        return stock.__call__(self, **wanted, **more)

    call.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    bases = (_FreeNoise, stock) if issubclass(stock, AnimateDiffFreeNoiseMixin) else (stock,)
    return type(stock.__name__, bases, {"__call__": call, "__doc__": stock.__doc__, "judged": {}})


def _as_judged(judged: Mapping[str, Any], given: Mapping[str, Any], sparse: bool) -> dict[str, Any]:
    """What a call is to have by default. `sparse`: a picture is of a frame that is named, not one of all in turn."""
    wanted = {called: judged[name] for name, called in _CALLED.items() if judged}
    if judged.get("negative") and not given.keys() & {"prompt_embeds", "negative_prompt_embeds"}:
        negative, prompt = judged["negative"], given.get("prompt")
        wanted["negative_prompt"] = [negative] * len(prompt) if isinstance(prompt, list) else negative
    shown = given.get("conditioning_frames")
    if judged and isinstance(shown, list) and shown and not sparse:
        # A ControlNet's pictures, one a frame; of several ControlNets, lists of them.
        wanted["num_frames"] = len(shown[0]) if isinstance(shown[0], list) else len(shown)
    return wanted


def _refuse_long(pipeline: Any, wanted: Mapping[str, Any]) -> None:
    video, longest = wanted.get("video"), pipeline.unet.config.motion_max_seq_length
    frames = wanted.get("num_frames") or (len(video) if isinstance(video, list) else 0)
    if frames > longest and not getattr(pipeline, "free_noise_enabled", False):
        raise LeanmotionError(f"num_frames {frames}: the adapter has positions for {longest} at most")


class _FreeNoise:
    """FreeNoise (Qiu et al. 2023, arXiv 2310.15169) around whole motion modules that are gone: they have no windows."""

    unet: Any

    def enable_free_noise(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers; windows are of as many frames as the adapter has positions, where None is given.

        Raises:
            LeanmotionError: longer windows than it has positions, or parts of a motion module were removed.
        """
        self._refuse_parts()
        longest = self.unet.config.motion_max_seq_length
        stock: Any = super().enable_free_noise  # pyright: ignore[reportAttributeAccessIssue]
        given = inspect.signature(stock).bind(*args, **kwargs)
        given.apply_defaults()
        length = given.arguments["context_length"] = given.arguments["context_length"] or longest
        if length > longest:
            raise LeanmotionError(f"context_length {length}: the adapter has positions for {longest} at most")
        before = self.__dict__.get("motion_adapter")
        # diffusers asks an adapter that is in the UNet by now, and no part of the pipeline.
        self.__dict__["motion_adapter"] = SimpleNamespace(config=self.unet.config)
        try:
            stock(*given.args, **given.kwargs)
        finally:
            self.__dict__["motion_adapter"] = before

    def enable_free_noise_split_inference(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers.

        Raises:
            LeanmotionError: parts of a motion module were removed.
        """
        self._refuse_parts()
        super().enable_free_noise_split_inference(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def _refuse_parts(self) -> None:
        if parts := [unit for unit in removed_units(self.unet) if "-" in unit]:
            raise LeanmotionError(
                f"FreeNoise takes motion modules that are whole or gone, {parts[0]} was removed from one: load the "
                "portable form with diffusers instead"
            )

    def _enable_free_noise_in_block(self, block: Any) -> None:
        super()._enable_free_noise_in_block(_kept_in(block))  # pyright: ignore[reportAttributeAccessIssue]

    def _disable_free_noise_in_block(self, block: Any) -> None:
        super()._disable_free_noise_in_block(_kept_in(block))  # pyright: ignore[reportAttributeAccessIssue]

    def _enable_split_inference_motion_modules_(self, motion_modules: Any, spatial_split_size: int) -> None:
        kept = [module for module in motion_modules if not isinstance(module, Skip)]
        super()._enable_split_inference_motion_modules_(kept, spatial_split_size)  # pyright: ignore[reportAttributeAccessIssue]


def _kept_in(block: Any) -> Any:
    """A block's motion modules that are there; in a middle block without any, none."""
    modules = getattr(block, "motion_modules", None) or ()
    return SimpleNamespace(motion_modules=[module for module in modules if not isinstance(module, Skip)])


def load_base(base: str, torch_dtype: torch.dtype | None, options: dict[str, Any]) -> Any:
    """A Stable Diffusion pipeline from a folder, a single file or the hub.

    Raises:
        LeanmotionError: it does not load, or holds motion modules of its own.
    """
    unet_config = Path(base) / "unet" / "config.json"
    if unet_config.is_file() and "UNetMotionModel" in unet_config.read_text(encoding="utf-8"):
        # diffusers takes an adapter for such a folder without a word and samples with the weights in the folder.
        raise LeanmotionError(
            f"base {base}: its unet is a UNetMotionModel, with motion modules of its own: "
            "give the Stable Diffusion folder that it was made from"
        )
    options = {"torch_dtype": torch_dtype, **options} if torch_dtype is not None else options
    try:
        if Path(base).is_file():
            # The configuration that a file lacks comes from the hub's cache alone: no hub id was named.
            return diffusers.StableDiffusionPipeline.from_single_file(base, **{"local_files_only": True, **options})
        options = {"safety_checker": None, "requires_safety_checker": False, **options}
        return diffusers.StableDiffusionPipeline.from_pretrained(base, **options)
    except Exception as error:  # diffusers raises many kinds on a folder that is not one
        line = next(iter(str(error).splitlines()), type(error).__name__)
        hint = (
            "; a single file takes its configuration from the hub's cache: give a folder"
            if Path(base).is_file()
            else ""
        )
        raise LeanmotionError(f"base {base}: does not load as a Stable Diffusion pipeline ({line}){hint}") from error
