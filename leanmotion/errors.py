"""The one error class that users see: a line that names the setting or file, and the mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class LeanmotionError(Exception):
    """Something in the user's hands is wrong: a setting, a file, a model. One line, with the mend."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` where a known word is close to `word`, else an empty string."""
    close = get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
