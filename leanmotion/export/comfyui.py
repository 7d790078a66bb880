"""What ComfyUI's users get beside the original form: stock nodes that skip removed blocks, and a node that drops them.

AnimateDiff-Evolved refuses a file that lacks a block, and computes the silenced ones. Its node "AD Per Block Floats
(SD1.5)" takes an effect per block, and a block of effect 0 is not computed (commit d8d163c: nodes_per_block.py, and
`VanillaTemporalModule.forward` in motion_module_ad.py).
"""

import inspect
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from leanmotion.export import comfyui_node

BLOCKS = (
    *(f"down_{level}_{i}" for level in range(4) for i in range(2)),
    "mid_0",
    *(f"up_{level}_{i}" for level in range(4) for i in range(3)),
)
"""The blocks in the order of Evolved's 21 floats. Files of v1 and v3 have no `mid_0`; its float stays."""
WIDTHS = (320, 640, 1280, 1280)
"""The only ones that Evolved builds its modules in."""
NODE = "leanmotion_skip_silenced"
"""The folder of the custom node."""
WORKFLOW = "workflow.json"
MOTION_FILE = "motion_module.safetensors"
_SAMPLERS = {"DDIMScheduler": "ddim", "EulerDiscreteScheduler": "euler", "LCMScheduler": "lcm"}
_SPACINGS = {"leading": "ddim_uniform", "trailing": "sgm_uniform", "linspace": "normal"}
# Evolved's names for diffusers' schedules: its "linear" is linear in the square roots, as diffusers' scaled_linear.
_BETAS = {"linear": "sqrt_linear (AnimateDiff)", "scaled_linear": "linear (HotshotXL/default)"}
_LCM_BETAS = {"linear": "lcm >> sqrt_linear", "scaled_linear": "lcm"}
_RAW_BETAS = {"linear": "sqrt_linear", "scaled_linear": "linear"}
# The one base whose file goes by another name than its repository's.
_FILES = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "v1-5-pruned-emaonly.safetensors"}


def has_its_blocks(blocks: Collection[str]) -> bool:
    """Whether these are the blocks of an adapter for Stable Diffusion 1.5, with `mid_0` or without."""
    return set(blocks) | {"mid_0"} == set(BLOCKS)


def value_schedule(removed: Collection[str]) -> str:
    """The text for Evolved's node "Value Scheduling": 0.0 for the blocks that are gone, 1.0 for the others.

    Args:
        removed: ids of whole blocks.
    """
    return ", ".join(f"{i} = {0.0 if block in removed else 1.0}" for i, block in enumerate(BLOCKS))


def checkpoint_file(base: str) -> str:
    """What the workflow calls the checkpoint: the base's own file, or its repository's or folder's name.

    Args:
        base: a path, or a model of the hub by its name there.
    """
    name = base.rstrip("/").rsplit("/", 1)[-1]
    return _FILES.get(base, name if name.endswith((".safetensors", ".ckpt")) else f"{name}.safetensors")


def workflow(removed: Collection[str], judged: Mapping[str, Any], checkpoint_name: str) -> dict[str, Any]:
    """A workflow of stock nodes, removed blocks skipped, in ComfyUI's API format, which its page loads too.

    Args:
        removed: ids of whole blocks.
        judged: how the adapter was judged (`leanmotion.model.judged_sampling`): what of it ComfyUI has a word for.
        checkpoint_name: the base's file (`checkpoint_file`).
    """
    nodes: dict[str, Any] = {}

    def node(name: str, kind: str, **inputs: Any) -> str:
        nodes[name] = {"class_type": kind, "inputs": inputs}
        return name

    checkpoint = node("checkpoint", "CheckpointLoaderSimple", ckpt_name=checkpoint_name)
    motion = node("motion", "ADE_LoadAnimateDiffModel", model_name=MOTION_FILE)
    values = node("values", "ADE_ValueScheduling", values=value_schedule(removed), print_schedule=False, max_length=0)
    skipped = node("blocks", "ADE_PerBlock_SD15_FromFloats", effect_21_floats=[values, 1])
    applied = node("apply", "ADE_ApplyAnimateDiffModelSimple", motion_model=[motion, 0], per_block=[skipped, 0])
    model = node(
        "evolved", "ADE_UseEvolvedSampling",
        model=[checkpoint, 0], m_models=[applied, 0], beta_schedule=beta_schedule(judged["scheduler"]),
    )  # fmt: skip
    if schedule := raw_schedule(judged["scheduler"]):
        sigmas = node("sigmas", "ADE_RawSigmaSchedule", **schedule)
        settings = node(
            "settings", "ADE_AnimateDiffSamplingSettings",
            batch_offset=0, noise_type="default", seed_gen="comfy", seed_offset=0, sigma_schedule=[sigmas, 0],
        )  # fmt: skip
        nodes[model]["inputs"]["sample_settings"] = [settings, 0]
    prompt = node("prompt", "CLIPTextEncode", clip=[checkpoint, 1], text="a prompt")
    negative = node("negative", "CLIPTextEncode", clip=[checkpoint, 1], text=judged["negative"])
    noise = node(
        "noise", "EmptyLatentImage", width=judged["width"], height=judged["height"], batch_size=judged["frames"]
    )
    clip = node(
        "sample", "KSampler",
        model=[model, 0], positive=[prompt, 0], negative=[negative, 0], latent_image=[noise, 0],
        seed=0, steps=judged["steps"], cfg=judged["guidance"], denoise=1.0,
        sampler_name=_SAMPLERS.get(judged["scheduler"]["_class_name"], "euler"),
        scheduler=_SPACINGS.get(str(judged["scheduler"].get("timestep_spacing")), "normal"),
    )  # fmt: skip
    frames = node("decode", "VAEDecode", samples=[clip, 0], vae=[checkpoint, 2])
    node(
        "save", "SaveAnimatedWEBP",
        images=[frames, 0], filename_prefix="leanmotion", fps=8.0, lossless=False, quality=90, method="default",
    )  # fmt: skip
    return nodes


def write_node(folder: Path, card: str) -> None:
    """Write the custom node with its README, as a folder for `custom_nodes/`."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(inspect.getsource(comfyui_node), encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")


def write_comfyui(
    folder: Path, removed: Collection[str], judged: Mapping[str, Any], cards: Mapping[str, str], checkpoint: str
) -> None:
    """Write the comfyui form: card, workflow, custom node.

    Args:
        folder: must not exist.
        removed: ids of whole blocks.
        judged: as in `workflow`.
        cards: texts of `comfyui` and `node`.
        checkpoint: the base's file.
    """
    write_node(folder / NODE, cards["node"])
    text = json.dumps(workflow(removed, judged, checkpoint), indent=2) + "\n"
    (folder / WORKFLOW).write_text(text, encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(cards["comfyui"], encoding="utf-8", newline="\n")


def raw_schedule(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of Evolved's node "Create Raw Sigma Schedule" for a base that predicts v; empty for others.

    A name of `beta_schedule` cannot say v: Evolved takes the prediction that ComfyUI found in the checkpoint, and puts
    it in the place of what a "ModelSamplingDiscrete" before it has set. One after it brings ComfyUI's own betas. A
    sigma schedule says both, and goes before `beta_schedule` (commit d8d163c: nodes_gen2.py, nodes_sigma_schedule.py).
    """
    if scheduler.get("prediction_type") != "v_prediction":
        return {}
    betas = str(scheduler.get("beta_schedule"))
    return {
        "raw_beta_schedule": _RAW_BETAS.get(betas, betas),
        "linear_start": scheduler.get("beta_start", 0.00085),
        "linear_end": scheduler.get("beta_end", 0.012),
        "sampling": "v_prediction",
        "lcm_original_timesteps": 50,
        "zsnr": bool(scheduler.get("rescale_betas_zero_snr", False)),
    }


def beta_schedule(scheduler: Mapping[str, Any]) -> str:
    """Evolved's name for a scheduler's betas; `autoselect` where it has none."""
    names = _LCM_BETAS if scheduler["_class_name"] == "LCMScheduler" else _BETAS
    return names.get(str(scheduler.get("beta_schedule")), "autoselect")
