"""Work in pieces that are kept as files under their addresses: several processes, and threads of each, divide them."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from leanmotion.pipeline.claims import Claims
from leanmotion.pipeline.processes import ranks

_POLL_SECONDS = 1.0
"""Between looks at the folder while other processes make what is left."""


class Pieces:
    """Files `<folder>/<address>.parquet`, each made whole by one process, whoever asks for it first.

    Args:
        folder: in the scratch store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claims = Claims(folder / "claims")

    def path(self, address: str) -> Path:
        """Where a piece lies, or will."""
        return self.folder / f"{address}.parquet"

    def missing(self, addresses: Sequence[str]) -> list[str]:
        """Those that are not there, in their order."""
        return [address for address in addresses if not self.path(address).is_file()]

    def make_together(self, addresses: Sequence[str], make: Callable[[str], None], *, threads: int = 1) -> None:
        """Make what is missing, each rank its share; return when all are there. What others make is waited for.

        Args:
            addresses: hexadecimal.
            make: writes a piece to its `path`; of several threads at once where `threads` says so.
            threads: of this process.
        """
        together = ranks()
        ours = together.divide(self.missing(addresses))
        self._make([address for address in addresses if address in ours], make, threads)
        together.wait()
        if together.main:
            # Nothing, as a rule: what another machine wrote may be seen late, or be damaged.
            self._make(addresses, make, threads)

    def _make(self, addresses: Sequence[str], make: Callable[[str], None], threads: int) -> None:
        stopped = threading.Event()

        def one(address: str) -> bool:
            with self.claims.hold(address) as ours:
                # Whoever had claimed it before may have made it meanwhile.
                if not ours or stopped.is_set() or not self.missing([address]):
                    return False
                try:
                    make(address)
                except BaseException:
                    stopped.set()  # the others end what they are at, and begin nothing
                    raise
                return True

        while left := self.missing(addresses):
            with ThreadPoolExecutor(min(threads, len(left))) as pool:
                made = list(pool.map(one, left))
            if not any(made):
                time.sleep(_POLL_SECONDS)
