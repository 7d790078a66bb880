"""What is no error, and would else go unseen: said once, with how many."""

from pathlib import Path

from leanmotion.checking.refusals import Opened
from leanmotion.model.requests import cut_remarks
from leanmotion.pipeline.settings import Teacher
from leanmotion.pipeline.watched_paths import read_pin
from leanmotion.prompts.splits import count_comments


def remarks(opened: Opened) -> list[str]:
    """Lines on prompts that are left out, or that the text encoder reads the beginning of alone; and on the norm."""
    chosen, lines = opened.settings.prompts, []
    for source in dict.fromkeys([chosen.source, chosen.confirm_source]):
        if comments := count_comments(source):
            lines.append(f"prompts: {_lines(comments)} of {source} with # at the beginning: left out, as comments")
    tokenizer = opened.base.tokenizer
    return (
        lines
        + cut_remarks("prompts", list(dict.fromkeys([*opened.prompts, *opened.confirming])), tokenizer)
        + cut_remarks("prompts.negative", [chosen.negative] if chosen.negative else [], tokenizer)
        + _norm(opened.settings.teacher)
    )


def _norm(teacher: Teacher) -> list[str]:
    """What the motion modules' norm means for whoever loads what is exported."""
    if teacher.motion_norm == "frame":
        return [
            "teacher.motion_norm frame: motion modules normalise each frame by itself, as AnimateDiff's own code and "
            "ComfyUI. Stock diffusers does not: the portable form draws other clips there"
        ]
    if Path(teacher.adapter).is_file() and read_pin(teacher.adapter, "teacher.adapter") is None:
        return [
            "teacher.motion_norm clip: motion modules normalise over all frames, as diffusers. AnimateDiff's own code "
            "and ComfyUI do not, which this file is of: for them set frame"
        ]
    return []


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
