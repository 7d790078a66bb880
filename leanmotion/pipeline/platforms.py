"""What Linux, macOS and Windows do differently. No other module asks which of them it runs on."""

import errno
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import psutil

WINDOWS = os.name == "nt"

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_SEEKABLE = 2**43
"""Windows locks from where a file stands: so far every file system can tell places apart, Linux' ext4 too."""

_PATIENCE_SECONDS, _PAUSE_SECONDS = 2.0, 0.05


def lock_byte(handle: IO[bytes], place: int) -> bool:
    """Lock one byte of an open file for this process, at once; False where another has it.

    The byte need not be there. On a file system without locks it is granted.

    Raises:
        OSError: the system says something else.
    """
    try:
        if WINDOWS:
            import msvcrt

            os.lseek(handle.fileno(), place % _SEEKABLE, os.SEEK_SET)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN, errno.EDEADLK}:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def unlock_byte(handle: IO[bytes], place: int) -> None:
    """Give back what `lock_byte` has granted."""
    try:
        if WINDOWS:
            import msvcrt

            os.lseek(handle.fileno(), place % _SEEKABLE, os.SEEK_SET)
            msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_UN, 1, place)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to disk.

    Windows opens no folder, and flushes only what is open for writing.
    """
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name; a file that had it is replaced.

    Windows refuses while anybody has it open, be it a virus scanner: there it is tried for two seconds.

    Raises:
        OSError: it cannot be.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() > until:
                raise
        time.sleep(_PAUSE_SECONDS)


def own_group() -> dict[str, Any]:
    """Arguments of `subprocess.Popen` that keep a terminal's Ctrl-C from the process that is started."""
    return {"creationflags": 0x00000200} if WINDOWS else {"process_group": 0}  # CREATE_NEW_PROCESS_GROUP


def is_program(word: str, name: str) -> bool:
    """Whether a word of a command line names that program: by its path, or with Windows' ending."""
    return word.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".exe") == name


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    if WINDOWS:
        return int(psutil.Process().memory_info().peak_wset)  # pyright: ignore[reportAttributeAccessIssue]
    import resource

    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def never_refuse_letters() -> None:
    """Have standard output and error show `?` for letters that they lack.

    Into a pipe or file Windows writes in its own code page: a frame of a table, or a prompt, would end the stage.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
