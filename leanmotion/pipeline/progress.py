"""Progress of long work: a bar with rate and time left, or a line every 30 s where no terminal watches."""

import sys
import time

from tqdm import tqdm

from leanmotion.pipeline.processes import is_main

_QUIET_SECONDS = 30.0


class Progress:
    """A bar on stderr, or sparse lines; `update` counts work done, `close` ends it.

    Of many ranks the main one alone shows its own share.

    Args:
        label: What is being done.
        total: How much of it there is; 0 where nobody knows before.
        unit: Its unit, as `clip`.
    """

    def __init__(self, label: str, total: int, unit: str = "clip") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._start = self._said = time.monotonic()
        self._bar = tqdm(total=total or None, desc=label, unit=unit, leave=False) if sys.stderr.isatty() else None

    def update(self, count: int) -> None:
        """Count `count` more units as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if is_main() and now - self._said >= _QUIET_SECONDS:
            self._said = now
            rate = self.done / (now - self._start)
            left = tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
            self._say(f"{self._share()}, {rate:.3g}/s" + (f", {left} left" if self.total else ""))

    def close(self) -> None:
        """Take the bar away; where none was and the work was long, say that it is done."""
        if self._bar is not None:
            self._bar.close()
        elif self._said > self._start:
            self._say(f"{self._share()} in {tqdm.format_interval(time.monotonic() - self._start)}")

    def _share(self) -> str:
        return f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done} {self.unit}"

    def _say(self, words: str) -> None:
        print(f"{self.label}: {words}", file=sys.stderr, flush=True)
