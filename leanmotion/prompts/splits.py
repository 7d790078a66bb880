"""The prompt tables: three splits, the sets that confirm, and what is trained on; two seeds a prompt.

The first N rows never depend on N. Every table has its own seeds: none is drawn by two of them.
"""

import ast
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.file_kinds import file_kind
from leanmotion.pipeline.settings import Clips, Prompts
from leanmotion.pipeline.watched_paths import SPRITES_CAPTIONS, built_in

SPLITS = ("rank", "select", "report")
_MEND = "name a text file, one prompt a line"
# What CSV and JSON lines begin with; a prompt may hold commas and quotes.
_WANTED = r"\"?(?:prompts?|captions?|text|descriptions?)\"?"
_HEADING = re.compile(
    rf"^\W*(?:prompts?|captions?|text)\W*$|^(?:[\w\"]+[,;\t])+{_WANTED}\s*(?:$|[,;\t])|^{_WANTED}(?:[,;\t][\w\"]+)+\s*$"
)
_JSON = re.compile(r"\s*(?:\[$|\[[\"{]|\{\")")
_ITEM, _QUOTED = re.compile(r"\s*- "), re.compile(r"""\s*(['"])(?:(?!\1).)*\1,?\s*""")
_SPACES = "\t\v\f\r\x1c\x1d\x1e\x85"


def prompt_rows(settings: Prompts, split: str) -> list[dict[str, Any]]:
    """Rows of a split's prompt table: of one of `SPLITS`, or of `settings.confirm_splits`.

    The list is shuffled anew each time it is gone through, by the seed and the split, so that every prompt comes
    equally often and a larger count keeps all earlier rows.

    Raises:
        LeanmotionError: The prompt file is missing or empty.
    """
    if split in SPLITS:
        prompts, count = load_prompts(settings.source), getattr(settings, split)
    else:
        prompts, count = load_prompts(settings.confirm_source, "prompts.confirm_source"), settings.select
    return [
        {
            "split": split,
            "index": index,
            "prompt": prompt,
            "negative": settings.negative,
            "seed_a": _number(settings.seed, split, index, "a"),
            "seed_b": _number(settings.seed, split, index, "b"),
        }
        for index, prompt in enumerate(_sequence(prompts, count, settings.seed, split))
    ]


def training_rows(settings: Prompts, clips: Clips) -> list[dict[str, Any]]:
    """Rows of the table of what the teacher draws to train on: `clips.count` of them, by `clips.seed`.

    Of the sprites the training captions, else prompts of the same file; seeds are drawn apart from those of the splits.
    """
    if built_in(settings.source) == SPRITES_CAPTIONS:
        from leanmotion.sprites.world import training_captions

        prompts = training_captions()
    else:
        prompts = load_prompts(settings.source)
    return [
        {
            "split": "train",
            "index": index,
            "prompt": prompt,
            "negative": settings.negative,
            "seed_a": _number(clips.seed, "train", index, "clips"),
            "seed_b": _number(clips.seed, "train", index, "b"),
        }
        for index, prompt in enumerate(_sequence(prompts, clips.count, clips.seed, "train"))
    ]


def load_prompts(source: str, setting: str = "prompts.source") -> list[str]:
    """Of a UTF-8 text file, one prompt a line; of the built-in file, the captions that the sprites teacher never saw.

    Args:
        source: The file.
        setting: That names it, for messages.

    Raises:
        LeanmotionError: No such file, not UTF-8, no prompt in it, or another built-in.
    """
    name = built_in(source)
    if name == SPRITES_CAPTIONS:
        from leanmotion.sprites.world import held_out_captions

        return held_out_captions()
    if name is not None:
        raise LeanmotionError(f"{setting}: {source} is the built-in {name!r}: name builtin/sprites-captions or a file")
    prompts = list(dict.fromkeys(line.strip() for line in _lines(source, setting) if not line.startswith("#")))
    if not prompts:
        raise LeanmotionError(f"{setting}: {source} holds no prompts: write one a line")
    return prompts


def count_comments(source: str) -> int:
    """Lines of a prompt file that are left out, as they begin with `#`; 0 of a built-in.

    Raises:
        LeanmotionError: No such file, or not UTF-8.
    """
    return 0 if built_in(source) else sum(line.startswith("#") for line in _lines(source, "prompts"))


def _lines(source: str, setting: str) -> list[str]:
    try:
        kind = file_kind(source)
        if kind is not None and kind.name not in ("a text", "empty"):
            raise LeanmotionError(f"{setting}: {source} is {kind.name}: {kind.mend or _MEND}")
        lines = Path(source).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise LeanmotionError(f"{setting}: {source} is missing: {_MEND}, or builtin/sprites-captions") from None
    except (UnicodeDecodeError, OSError) as error:
        raise LeanmotionError(f"{setting}: {source} is not a UTF-8 text file ({error})") from error
    lines = [line for line in lines if any(c == "\0" or (c.isprintable() and not c.isspace()) for c in line)]
    if any("\0" in line for line in lines):
        raise LeanmotionError(f"{setting}: {source} is not a UTF-8 text file (it holds NULs): save it as UTF-8")
    if lines and (_HEADING.search(lines[0].casefold()) or all(_JSON.match(line) for line in lines)):
        raise LeanmotionError(f"{setting}: {source} is a table or JSON by its first line: {_MEND}, and nothing else")
    if kept := [line for line in lines if not line.startswith("#")]:
        _refuse_data(kept, f"{setting}: {source}")
    return lines


def _refuse_data(lines: Sequence[str], what: str) -> None:
    """Refuse lines that are one value of JSON, YAML or Python together, and those that no text encoder is to read."""
    text = "\n".join(lines)
    if text.lstrip()[0] in "[{" and (_parses(json.loads, text) or _parses(ast.literal_eval, text)):
        raise LeanmotionError(f"{what} is a list or dictionary as a program writes it: {_MEND}, and nothing else")
    if len(lines) > 1 and (all(map(_ITEM.match, lines)) or all(map(_QUOTED.fullmatch, lines))):
        raise LeanmotionError(f"{what} has a dash or quotes around every line: {_MEND}, and nothing else")
    for line in lines:
        if odd := next(
            (c for c in line if c == "\ufffd" or (unicodedata.category(c) == "Cc" and c not in _SPACES)), None
        ):
            why = "was read in a wrong encoding before" if odd == "\ufffd" else "is no text"
            raise LeanmotionError(f"{what} {why} (it holds U+{ord(odd):04X}): {_MEND}, in UTF-8")


def _parses(read: Callable[[str], Any], text: str) -> bool:
    try:
        return isinstance(read(text), list | dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _sequence(prompts: Sequence[str], count: int, seed: int, split: str) -> list[str]:
    sequence: list[str] = []
    cycle = 0
    while len(sequence) < count:
        sequence += sorted(prompts, key=lambda prompt: _number(seed, split, cycle, prompt))
        cycle += 1
    return sequence[:count]


def _number(*parts: object) -> int:
    """A 32-bit number that depends on its parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little")
