"""What is read, what is converted and what is refused of users' files: the table of docs/real-teachers.md."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from leanmotion.clips.captions import DELIMITERS, LAYOUTS
from leanmotion.clips.video_reading import CONTAINERS
from leanmotion.distillation.sampler_steps import ONE_STEP
from leanmotion.model.adapter_files import NOT_MOTION, OTHER_KINDS, PIA
from leanmotion.model.base_kinds import BLOCKS, CHANNELS, PLAIN
from leanmotion.pipeline.file_kinds import kinds


class Taken(NamedTuple):
    """A row: of which setting, what a user may have there, what is done with it, and how."""

    setting: str
    what: str
    done: Literal["read", "converted", "listed", "refused"]
    how: str = ""


def taken() -> Iterator[Taken]:
    """All rows. `listed`: that clip is left out, and said with the reason; `refused`: one line, before any work."""
    yield from _bases()
    yield from _adapters()
    yield from _clips()
    yield Taken("prompts.source", "UTF-8, a prompt a line", "read")
    yield Taken("prompts.source", "lines with # at the beginning", "read", "left out as comments; said, with how many")
    yield Taken("prompts.source", "prompts longer than the tokenizer takes", "read", "cut; said, with how many")
    yield Taken("prompts.source", "other encodings, control characters, CSV with a heading, web pages", "refused")
    yield Taken("prompts.source", "JSON, YAML and Python's lists; a dash or quotes in every line; no prompt", "refused")
    yield Taken("extractor.path", "a TorchScript I3D of 400 logits; VideoMAE; the sprites' reader", "read", "by sha256")
    yield Taken(
        "extractor.path", "a TorchScript of another signature or other features", "refused", "tried on one clip"
    )


def table() -> str:
    """The rows in Markdown, those of one setting and fate together."""
    lines = ["| setting | what | | how |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| `{row.setting}` | {row.what} | {row.done} | {row.how} |" for row in taken()]) + "\n"


def _bases() -> Iterator[Taken]:
    name = "teacher.base"
    yield Taken(name, "a diffusers folder, in shards too", "read")
    yield Taken(name, "a single .safetensors file", "read", "its configuration comes from the hub's cache")
    yield Taken(name, "v-prediction, linear projections (Stable Diffusion 2)", "read")
    yield Taken(name, "a folder with one variant alone (`fp16`)", "converted", "loaded in `teacher.dtype`")
    yield Taken(name, "several variants and no plain weights", "refused")
    for count, kind in CHANNELS.items():
        yield Taken(name, kind, "refused", f"{count} input channels")
    told: dict[str, list[str]] = {}
    for plain in PLAIN:
        told.setdefault(plain.otherwise, []).append(f"`{plain.setting}`")
    for otherwise, settings in told.items():
        yield Taken(name, f"a UNet that {otherwise}", "refused", ", ".join(settings))
    known = ", ".join(f"`{kind}`" for names in BLOCKS.values() for kind in names)
    yield Taken(name, "a UNet with other blocks", "refused", f"known: {known}")
    yield Taken(
        name, "tensors missing; a tokenizer without vocabulary; pointers, web pages instead of weights", "refused"
    )
    yield Taken(name, "a single file of something else (a LoRA, a motion module)", "refused")
    yield Taken(name, "a folder that AnimateDiffPipeline saved (a `UNetMotionModel`)", "refused")
    yield Taken(name, "a scheduler that stops within `sampling.steps`", "refused", "tried")
    yield Taken(
        name, "a scheduler with a memory, where distillation draws", "refused", f"known: {', '.join(sorted(ONE_STEP))}"
    )


def _adapters() -> Iterator[Taken]:
    name = "teacher.adapter"
    yield Taken(name, "a `MotionAdapter` folder: .safetensors, .bin, shards, a variant alone", "read")
    yield Taken(name, "AnimateDiff v1, v2, v3, Lightning in one file", "read", "the format is told by its content")
    yield Taken(name, "the original's key names", "converted", "to diffusers'; exports go back")
    yield Taken(name, "keys behind any prefix (`module.`, `unet.`, ...)", "converted", "taken off")
    yield Taken(name, "nested dictionaries and lists (`state_dict`, ...)", "converted", "the one with motion modules")
    yield Taken(name, "other weights of a training checkpoint", "converted", "left out")
    yield Taken(name, "no positions (AnimateLCM)", "converted", "made, exactly; exports have none again")
    yield Taken(name, "half precision, fp8", "converted", "to `teacher.dtype`")
    for kind in OTHER_KINDS:
        yield Taken(name, kind.name, "refused", kind.mend)
    yield Taken(name, PIA, "refused")
    for kind in NOT_MOTION:
        yield Taken(name, kind.name, "refused", kind.mend)
    yield Taken(name, "one of SDXL's widths, or of the base's no more", "refused")
    yield Taken(name, "blocks or tensors missing, motion modules twice", "refused")
    yield Taken(name, "quantised to whole numbers, sparse tensors, tensors without values", "refused")
    yield Taken(name, "a file of a folder whose config.json tells other heads or norm groups", "refused")
    yield Taken(name, "a torch file that does not fit its own checksums", "refused")
    yield Taken(name, "pickled code", "refused", "never run")
    yield Taken(name, "a pruned folder, an export, a whole pipeline", "refused", "with the folder to name")
    others = [kind for kind in kinds() if not kind.startswith(("a safetensors", "a zip archive, as torch", "a pickle"))]
    yield Taken(name, f"by its content: {'; '.join(others)}", "refused")


def _clips() -> Iterator[Taken]:
    name = "clips.path"
    yield Taken(name, f"FFmpeg's {', '.join(CONTAINERS)}", "read")
    yield Taken(name, "animated WebP", "read")
    yield Taken(name, "what is transparent", "converted", "to white")
    yield Taken(name, "turned or mirrored by metadata; pixels that are not square", "converted", "as players do")
    yield Taken(name, "edit lists; covers and previews beside the video", "converted", "what plays is read")
    yield Taken(name, "links into the folder or DVC's cache", "read")
    yield Taken(name, "high dynamic range (HLG, PQ); codecs that FFmpeg does not know", "listed")
    yield Taken(name, "links elsewhere, missing, too short, damaged, still, slanted; playlists, web pages", "listed")
    name = "clips.captions"
    layouts = " or ".join(", ".join(f"`{column}`" for column in columns) for columns in LAYOUTS)
    yield Taken(name, f"Parquet, or CSV in UTF-8 or UTF-16, of columns {layouts}", "read", "by its content")
    yield Taken(name, f"{len(DELIMITERS)} delimiters (comma, tab, semicolon, bar); headings in any case", "read")
    yield Taken(name, "commas without quotes in the last column", "converted", "part of the caption")
    yield Taken(name, "names with backslashes, other accents, the folder's own name", "converted")
    yield Taken(name, "ids that went through floats; `nan`, `None` and the like", "converted", "to numbers; to nothing")
    yield Taken(
        name,
        "no caption, lists, numbers, controls, lost letters, quotes or line ends that break a row",
        "listed",
        "with the row",
    )
    yield Taken(name, "other columns or encodings, JSON, archives, names outside the folder, not one clip", "refused")
