"""Windows' `msvcrt` for tests on POSIX systems."""

import fcntl
import os
from types import SimpleNamespace
from typing import Any


def msvcrt() -> Any:
    """Windows' own locks, made of those of POSIX: of bytes from where the file stands, refused as the library does."""

    def locking(descriptor: int, mode: int, count: int) -> None:
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        fcntl.lockf(descriptor, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB, count, place)

    return SimpleNamespace(LK_UNLCK=0, LK_NBLCK=2, locking=locking)
