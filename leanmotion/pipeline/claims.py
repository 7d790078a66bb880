"""Who is at work on what: claims that processes on any number of machines see, and that none leaves behind."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Claims:
    """Claims on names, by one file in a shared folder.

    A claim is a POSIX record lock on a byte of that file, at an offset that the name decides. The operating system
    (over NFS: the server) takes it back however its holder ends, so that there is no stale claim, no clock to agree
    on, and nothing to clean up. Locks belong to a process: threads of one do not exclude each other, and a process
    holds one claim at a time. On a file system without locks every claim is granted: work may then be done twice,
    to the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Try to hold the claim on a hexadecimal name, at once; yields whether it is ours for the block.

        Raises:
            OSError: the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # 60 bits of the name: file offsets are signed 64-bit. Two names that meet there wait for one another.
        place = int(name[:15], 16)
        # Closing any handle of the file frees all locks of the process: hence one claim at a time.
        with self.path.open("ab") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError as error:
                if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                    if error.errno not in {errno.EACCES, errno.EAGAIN}:
                        raise
                    yield False
                    return
            yield True
