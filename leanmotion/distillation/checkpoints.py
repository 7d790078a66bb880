"""Checkpoints of a training that may be killed at any moment, and what tells one training from another."""

from __future__ import annotations

import hashlib
import logging
import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.platforms import sync
from leanmotion.pipeline.writing import saying_unwritable

logger = logging.getLogger(__name__)


class CheckpointStore:
    """One file that always holds a whole checkpoint: written beside, flushed to disk, then renamed.

    Its name carries the address of everything that the result depends on, so that a checkpoint of other settings
    or weights is neither resumed nor lost.

    Attributes:
        last: where the newest one lies, and of how many steps; empty where there is none.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = Path(folder)
        self.address = address
        self.path = self.folder / f"checkpoint-{address[:16]}.pt"
        self.last = ""
        self._partial = self.path.with_suffix(".partial")
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def load(self) -> dict[str, Any] | None:
        """The checkpoint of this address, or None; what a killed writer left behind is removed.

        Raises:
            LeanmotionError: it cannot be read, or is not what its name says.
        """
        self._partial.unlink(missing_ok=True)
        if not self.path.is_file():
            if others := sorted(path.name for path in self.folder.glob("checkpoint-*.pt")):
                logger.warning(
                    "%s: %d of other settings or weights are left alone; this training starts at step 0",
                    self.folder,
                    len(others),
                )
            return None
        try:
            _check_seal(self.path)
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise LeanmotionError(f"{self.path}: not a readable checkpoint: delete it to start again") from error
        if not isinstance(state, dict) or state.get("address") != self.address:
            raise LeanmotionError(f"{self.path}: a checkpoint of another training: delete it to start again")
        self.last = f"{self.path} after {len(state['rows'])} steps"
        return state

    def save_beside(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint while the caller goes on to change what is in `state`; `wait` for it, then `close`.

        Takes as much memory of the CPU as the checkpoint has bytes.

        Raises:
            LeanmotionError: the one before could not be written.
        """
        self.wait()
        self._writing = self._writer.submit(self.save, _copied(state))

    def wait(self) -> None:
        """Come back when nothing is being written.

        Raises:
            LeanmotionError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, whatever comes of it; nothing is written afterwards."""
        self._writer.shutdown()

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            LeanmotionError: it cannot be written; the former one is whole.
        """
        try:
            with saying_unwritable(self.path):
                self.folder.mkdir(parents=True, exist_ok=True)
                with self._partial.open("wb") as file:
                    sealed = _Sealed(file)
                    torch.save({**state, "address": self.address}, sealed)  # pyright: ignore[reportArgumentType]
                    sealed.close()
                sync(self._partial)
                self._partial.replace(self.path)
                sync(self.folder)
        finally:
            with suppress(OSError):  # said already
                self._partial.unlink(missing_ok=True)


# torch verifies no checksum of what it loads: 97 of 100 flipped bits went unseen. A SHA-256 follows the file's own
# content, where readers of zip archives do not look.
_SEAL = b"leanmotion.sha256"


class _Sealed:
    """A file in writing, its content digested on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, part: bytes | memoryview) -> int:
        self.digest.update(part)
        return self.file.write(part)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.write(_SEAL + self.digest.digest())


def _copied(state: Any) -> Any:
    """The same, no tensor of it shared, all on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return type(state)(map(_copied, state)) if isinstance(state, list | tuple) else state


def _check_seal(path: Path) -> None:
    """Raises ValueError unless the file ends with the SHA-256 of what is before."""
    size = path.stat().st_size - len(_SEAL) - 32
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
        if size < 0 or file.read() != _SEAL + digest.digest():
            raise ValueError("altered or cut short")
