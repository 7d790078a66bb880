"""Who is at work on what: claims that processes on any number of machines see, and that none leaves behind."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from leanmotion.pipeline.platforms import lock_byte, unlock_byte

_GUARD = threading.Lock()
_OPEN: dict[tuple[int, Path], "_File"] = {}
"""Files with claims of this process, by process: a forked child has none of its parent's."""


class Claims:
    """Claims on names, by one file in a shared folder.

    A claim is a record lock on a byte of that file, at an offset that the name decides. The operating system (over NFS:
    the server) takes it back however its holder ends, so that there is no stale claim, no clock to agree on and nothing
    to clean up. A process holds as many as it likes, on one handle: on POSIX systems closing any handle of a file frees
    them all. On a file system without locks every claim is granted: work may then be done twice, to the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, name: str) -> bool:
        """Try to claim a hexadecimal name, at once; False where anybody holds it, this process included.

        Raises:
            OSError: the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        place = _place(name)
        with _GUARD:
            file = _OPEN.get(self._key) or _File(self.path.open("ab"))
            if place in file.places:
                return False
            try:
                granted = lock_byte(file.handle, place)
            except BaseException:
                file.close_if_unused()
                raise
            if granted:
                file.places.add(place)
                _OPEN[self._key] = file
            else:
                file.close_if_unused()
            return granted

    def release(self, name: str) -> None:
        """Give a claim back."""
        with _GUARD:
            file = _OPEN[self._key]
            file.places.remove(_place(name))
            unlock_byte(file.handle, _place(name))
            if not file.places:
                del _OPEN[self._key]
                file.close_if_unused()

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """The same for a block; yields whether the claim is ours."""
        ours = self.take(name)
        try:
            yield ours
        finally:
            if ours:
                self.release(name)

    @property
    def _key(self) -> tuple[int, Path]:
        return os.getpid(), self.path.resolve()


class _File:
    def __init__(self, handle: IO[bytes]) -> None:
        self.handle, self.places = handle, set[int]()

    def close_if_unused(self) -> None:
        if not self.places:
            self.handle.close()


def _place(name: str) -> int:
    """60 bits of the name: file offsets are signed 64-bit. Two names that meet there wait for one another."""
    return int(name[:15], 16)
