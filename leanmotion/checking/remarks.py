"""What is no error, and would else go unseen: said once, with how many."""

from leanmotion.checking.refusals import Opened
from leanmotion.model.requests import cut_remarks
from leanmotion.prompts.splits import count_comments


def remarks(opened: Opened) -> list[str]:
    """Lines on prompts that are left out, or that the text encoder reads the beginning of alone."""
    chosen, lines = opened.settings.prompts, []
    for source in dict.fromkeys([chosen.source, chosen.confirm_source]):
        if comments := count_comments(source):
            lines.append(f"prompts: {_lines(comments)} of {source} with # at the beginning: left out, as comments")
    tokenizer = opened.base.tokenizer
    return (
        lines
        + cut_remarks("prompts", list(dict.fromkeys([*opened.prompts, *opened.confirming])), tokenizer)
        + cut_remarks("prompts.negative", [chosen.negative] if chosen.negative else [], tokenizer)
    )


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
