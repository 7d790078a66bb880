"""Motion modules under the key names of the original AnimateDiff, and the adapters that people hold.

Original key: `down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight`,
the diffusers key of the same tensor: `down_blocks.0.motion_modules.1.transformer_blocks.0.attn1.to_q.weight`.
The original has a positional encoding in each attention layer (`pos_encoder.pe`), diffusers one per transformer block
(`pos_embed.pe`). Read from guoyww/AnimateDiff's motion_module.py, ComfyUI-AnimateDiff-Evolved's motion_module_ad.py and
diffusers' single_file_utils.py.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from leanmotion.errors import LeanmotionError
from leanmotion.model.adapter_files import NOTE, PLACE, add_note, motion_tensors, read_tensors
from leanmotion.model.motion_state import (
    check_keys,
    expected_shapes,
    full_motion_state,
    motion_config,
    odd_heads,
    portable_tensors,
    sinusoids,
)
from leanmotion.model.weights import adapter_config, adapter_files, beside
from leanmotion.pipeline.setting_address import added
from leanmotion.pipeline.writing import whole

if TYPE_CHECKING:
    from diffusers import MotionAdapter

PathLike = str | os.PathLike[str]
# Diffusers' names and the original's, inside a transformer block.
_NAMES = {
    ".attn1.": ".attention_blocks.0.",
    ".attn2.": ".attention_blocks.1.",
    ".norm1.": ".norms.0.",
    ".norm2.": ".norms.1.",
    ".norm3.": ".ff_norm.",
}
_LENGTH_WITHOUT_ENCODING = 64  # AnimateLCM's file has no positions: the most frames that its users take
_LEFT_OUT = "left_out_blocks"  # in the note of a file without silent blocks: how many


def to_original(key: str) -> list[str]:
    """The original's key names for a diffusers key: one, or two for a positional embedding."""
    key = PLACE.sub(lambda match: match.group() + "temporal_transformer.", key)
    if key.endswith(".pos_embed.pe"):
        stem = key.removesuffix("pos_embed.pe")
        return [f"{stem}attention_blocks.{i}.pos_encoder.pe" for i in (0, 1)]
    for ours, theirs in _NAMES.items():
        key = key.replace(ours, theirs)
    return [key]


def from_original(key: str) -> str:
    """The diffusers key for an original one; both positional encodings of a block go to its one embedding."""
    key = key.replace(".temporal_transformer.", ".", 1)
    if key.endswith(".pos_encoder.pe"):
        return re.sub(r"attention_blocks\.\d+\.pos_encoder\.pe$", "pos_embed.pe", key)
    for ours, theirs in _NAMES.items():
        key = key.replace(theirs, ours)
    return key


def read_original(
    path: PathLike, *, heads: int | None = None, norm_groups: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a motion module from one file: `.safetensors`, or `.ckpt`, `.pth`, `.pt`, `.bin` without unpickling code.

    Original keys (AnimateDiff v1, v2, v3, AnimateLCM, AnimateDiff-Lightning for ComfyUI) or diffusers keys in one
    file (AnimateDiff-Lightning for diffusers). Blocks, channels, layers and length are read off the weights, which
    are mapped from the file where its format allows. Other weights of a training checkpoint are left out, as the
    original loader does.

    Args:
        path: of the file.
        heads: attention heads, which weights do not tell: what `write_original` noted, else the published 8.
        norm_groups: groups of the group norm, likewise; else 32.

    Returns:
        State dict in diffusers keys, and the arguments of its `diffusers.MotionAdapter`.

    Raises:
        LeanmotionError: not such a file, damaged, incomplete (one without its silent blocks is), or for something else
            (a LoRA, SDXL, SparseCtrl).
    """
    path = Path(path)
    tensors, noted = read_tensors(path)
    what = f"motion module {path}"
    if left_out := noted.get(_LEFT_OUT):
        raise LeanmotionError(
            f"{what}: is for AnimateDiff's own code alone, {left_out} silent blocks are left out: give the whole file"
        )
    state: dict[str, Tensor] = {}
    for key, value in motion_tensors(what, tensors).items():
        name = from_original(key)
        if name in state and not torch.equal(state[name], value):
            raise LeanmotionError(f"{what}: the two positional encodings of a block differ at {key}: not supported")
        state[name] = value
    published = {"motion_num_attention_heads": 8, "motion_norm_num_groups": 32}
    config = {**_infer_config(what, state), **published}
    config |= {name: noted[name] for name in config if name in noted}
    config["motion_num_attention_heads"] = heads or config["motion_num_attention_heads"]
    config["motion_norm_num_groups"] = norm_groups or config["motion_norm_num_groups"]
    if added(not (heads or norm_groups) and beside(path, config)):
        raise LeanmotionError(f"{what}: config.json beside it says other heads or norm groups: name the folder")
    try:
        return _whole(what, state, config), config
    except ValueError as error:
        raise LeanmotionError(
            f"{what}: tells neither heads nor norm groups, and the published 8 and 32 do not fit its widths "
            f"{config['block_out_channels']}: give a file that leanmotion wrote, or a diffusers folder"
        ) from error


def holds_positions(path: PathLike) -> bool:
    """Whether an adapter's folder or file holds positional encodings. AnimateLCM's has none: that is how it is known.

    Raises:
        LeanmotionError: as `load_adapter`.
    """
    path = Path(path)
    tensors = _folder_tensors(path) if path.is_dir() else read_tensors(path)[0]
    return any(key.endswith((".pos_encoder.pe", ".pos_embed.pe")) for key in tensors)


def original_state(model: nn.Module, *, positions: bool = True) -> dict[str, Tensor]:
    """The motion modules of a `MotionAdapter` or `UNetMotionModel` under original keys, in full shape.

    Removed units are there and do nothing: ComfyUI's AnimateDiff-Evolved refuses a file with missing keys.
    `positions=False` leaves the positional encodings out: AnimateLCM's file is known by having none.
    """
    state = full_motion_state(model)
    kept = {key: value for key, value in state.items() if positions or not key.endswith("pos_embed.pe")}
    return {name: value for key, value in kept.items() for name in to_original(key)}


def without_silent_blocks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict, under either names, without the blocks whose `proj_out` is zero: they add nothing.

    AnimateDiff's own loader is not strict, and its modules start from a zero `proj_out`: a block that is missing in
    its file adds exactly nothing (guoyww/AnimateDiff, util.py and motion_module.py).
    """
    heard = {_place(key) for key, value in state.items() if ".proj_out." in key and bool(value.any())}
    return {key: value for key, value in state.items() if _place(key) in heard}


def write_original(model: nn.Module, path: PathLike, *, positions: bool = True, silent: bool = True) -> Path:
    """Writes `original_state` to one file, by its suffix: `.safetensors`, or `.ckpt` / `.pth` (a flat dictionary).

    The file appears whole or not at all; same weights, same bytes. It notes the adapter's config, since weights tell
    neither heads nor norm groups: in the header, or as a record of the archive that no other loader looks at.

    Args:
        model: as in `original_state`.
        path: of the file.
        positions: as in `original_state`.
        silent: False leaves out the blocks that do nothing (`without_silent_blocks`): for AnimateDiff's own code
            alone. ComfyUI refuses such a file, and stock diffusers would fill the gaps with anything.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix not in (".safetensors", ".ckpt", ".pth"):
        raise LeanmotionError(f"original file {path}: suffix {path.suffix!r}: choose .safetensors, .ckpt or .pth")
    tensors, noted = portable_tensors(original_state(model, positions=positions)), motion_config(model)
    if not silent:
        blocks = {_place(key) for key in tensors}
        tensors = without_silent_blocks(tensors)
        noted[_LEFT_OUT] = len(blocks - {_place(key) for key in tensors})
    note = json.dumps(noted, sort_keys=True)
    with whole(path) as part:
        if path.suffix == ".safetensors":
            # One entry only: safetensors writes several in an order that changes from run to run.
            save_file(tensors, part, metadata={NOTE: note})
        else:
            with part.open("wb") as file:  # an open file: given a path, torch writes its name into the bytes
                torch.save(tensors, file)
            add_note(part, note)
        part.chmod(0o644)  # safetensors writes files that only their owner may read
    return path


def load_adapter(path: PathLike, *, heads: int | None = None, norm_groups: int | None = None) -> "MotionAdapter":
    """A `MotionAdapter` from a diffusers folder or a single file, complete or not at all; in the file's dtype.

    The length of the positional embedding comes from the weights (the published v2 config omits it). Stock
    `from_pretrained` only warns where blocks are missing, and leaves them uninitialised: this one refuses.

    Args:
        path: folder with `config.json` and `diffusion_pytorch_model*`, or a file for `read_original`.
        heads: for a single file, as in `read_original`.
        norm_groups: for a single file, as in `read_original`.

    Raises:
        LeanmotionError: what `read_original` refuses, and folders of other things.
    """
    from diffusers import MotionAdapter

    if not isinstance(path, str | os.PathLike):
        raise LeanmotionError(f"motion adapter {path!r}: give the path of a folder or file")
    path = Path(path)
    if path.is_dir():
        state, config = _read_folder(path)
    elif path.is_file():
        state, config = read_original(path, heads=heads, norm_groups=norm_groups)
    else:
        raise LeanmotionError(f"motion adapter {path}: no such file or folder: give an existing one")
    with torch.device("meta"):
        adapter = MotionAdapter(**config)
    adapter.load_state_dict(state, assign=True)
    return adapter.eval()


def _place(key: str) -> str:
    """The motion module that a key belongs to."""
    match = PLACE.match(key)
    return match.group() if match else ""


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    what = f"motion adapter {folder}"
    given = adapter_config(folder)
    state = _folder_tensors(folder)
    if added(any(not PLACE.match(key) or from_original(key) != key for key in state)):
        motion_tensors(what, state)  # refuses what is something else
        raise LeanmotionError(f"{what}: its keys are not a diffusers MotionAdapter's: save it as one")
    known = {key: value for key, value in given.items() if not key.startswith("_")}
    lengths = [value.shape[1] for key, value in state.items() if key.endswith("pos_embed.pe")]
    if lengths:
        known["motion_max_seq_length"] = lengths[0]
    try:
        return _whole(what, state, known), known
    except (TypeError, ValueError) as error:
        raise LeanmotionError(f"{what}: config.json does not make a MotionAdapter ({error})") from error


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Of one file, or of all its shards."""
    weights = [path for path in adapter_files(folder) if path.suffix != ".json"]
    return {key: value for path in weights for key, value in read_tensors(path)[0].items()}


def _infer_config(what: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config that the keys and shapes of a state dict (diffusers keys) tell; heads and groups they do not."""
    suffix = ".norm.weight"
    norms = {key.removesuffix(suffix): value.shape[0] for key, value in state.items() if key.endswith(suffix)}
    stacks: dict[str, list[int]] = {}
    for place, channels in norms.items():
        stacks.setdefault(place.split(".motion_modules.")[0], []).append(channels)
    down = [name for name in stacks if name.startswith("down_blocks")]
    up = [name for name in stacks if name.startswith("up_blocks")]
    if not down or len(down) != len(up):
        raise LeanmotionError(f"{what}: {len(down)} down and {len(up)} up levels with motion modules: not a whole one")
    if len(down) == 3 and [stacks.get(f"down_blocks.{i}", [0])[0] for i in range(3)] == [320, 640, 1280]:
        raise LeanmotionError(f"{what}: this one is for SDXL (3 levels): give one for Stable Diffusion 1.5 (4 levels)")
    levels = range(len(down))
    if any(f"down_blocks.{i}" not in stacks for i in levels):
        raise LeanmotionError(f"{what}: levels {sorted(down)} have gaps: get a whole file")
    depth = {key.split(".transformer_blocks.")[1].split(".")[0] for key in state if ".transformer_blocks." in key}
    lengths = {value.shape[1] for key, value in state.items() if key.endswith("pos_embed.pe")}
    if len(lengths) > 1:
        raise LeanmotionError(f"{what}: positional encodings of lengths {sorted(lengths)}: not supported")
    # An up level has one module more than its down level: a module that is missing in one is told by the other.
    ups = [len(stacks.get(f"up_blocks.{len(levels) - 1 - i}", [0])) - 1 for i in levels]
    layers = [max(len(stacks[f"down_blocks.{i}"]), ups[i]) for i in levels]
    return {
        "block_out_channels": [stacks[f"down_blocks.{i}"][0] for i in levels],
        "motion_layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "motion_transformer_layers_per_block": max(len(depth), 1),
        "motion_mid_block_layers_per_block": len(stacks.get("mid_block", [0])),
        "motion_transformer_layers_per_mid_block": max(len(depth), 1),
        "motion_max_seq_length": max(lengths, default=_LENGTH_WITHOUT_ENCODING),
        "use_motion_mid_block": "mid_block" in stacks,
        "conv_in_channels": None,
    }


def _has_positions(state: Mapping[str, Tensor]) -> bool:
    return any(key.endswith("pos_embed.pe") for key in state)


def _whole(what: str, state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in the adapter's order, with positional embeddings if the file had none; refuses gaps."""
    if added(odd_heads(config)):
        raise ValueError("its motion_num_attention_heads divide no widths")
    shapes = expected_shapes(config)
    if not _has_positions(state):
        # Exact, whatever the weights are kept in: the caller's own dtype is the first to round them.
        state |= {key: sinusoids(*shape[1:]) for key, shape in shapes.items() if key.endswith("pos_embed.pe")}
    check_keys(what, {key: tuple(value.shape) for key, value in state.items()}, shapes)
    return {key: state[key] for key in shapes}
