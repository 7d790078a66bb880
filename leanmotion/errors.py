"""The one error class that users see: a line that names the setting or file, and the mend."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_QUOTED, _LINE = 160, 1000
"""Characters that a line shows of what it quotes, and has at most."""


class LeanmotionError(Exception):
    """Something in the user's hands is wrong: a setting, a file, a model. One line, with the mend.

    What it quotes of the user's is cut where it is long.
    """

    def __init__(self, line: object = "") -> None:
        super().__init__(shortened(re.sub(r"\s*[\r\n]\s*", " ", str(line))))


def shortened(line: str) -> str:
    """A line whose quoted parts are no longer than one can read, and that keeps its beginning and its end.

    >>> shortened("x is '" + 300 * "a" + "': mend it") == "x is '" + 160 * "a" + "...': mend it"
    True
    """
    for quote in ("'", '"'):
        line = re.sub(rf"{quote}([^{quote}]{{{_QUOTED}}})[^{quote}]+{quote}", rf"{quote}\1...{quote}", line)
    return line if len(line) <= _LINE else f"{line[: _LINE * 2 // 3]} ... {line[-(_LINE // 3) + 5 :]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` where a known word is close to `word`, else an empty string."""
    close = get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
