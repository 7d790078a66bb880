"""Checkpoints of a training that may be killed at any moment, and what tells one training from another."""

from __future__ import annotations

import hashlib
import logging
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.digests import file_sha256
from leanmotion.pipeline.writing import saying_unwritable, sync

logger = logging.getLogger(__name__)


class CheckpointStore:
    """One file that always holds a whole checkpoint: written beside, flushed to disk, then renamed.

    Its name carries the address of everything that the result depends on, so that a checkpoint of other settings
    or weights is neither resumed nor lost.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = Path(folder)
        self.address = address
        self.path = self.folder / f"checkpoint-{address[:16]}.pt"
        self.last = ""
        self._partial = self.path.with_suffix(".partial")

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

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            LeanmotionError: it cannot be written; the former one is whole.
        """
        try:
            with saying_unwritable(self.path):
                self.folder.mkdir(parents=True, exist_ok=True)
                with self._partial.open("wb") as file:
                    torch.save({**state, "address": self.address}, file)
                _seal(self._partial)
                sync(self._partial)
                self._partial.replace(self.path)
                sync(self.folder)
        finally:
            with suppress(OSError):  # said already
                self._partial.unlink(missing_ok=True)


# torch verifies no checksum of what it loads: 97 of 100 flipped bits went unseen. A SHA-256 follows the file's own
# content, where readers of zip archives do not look.
_SEAL = b"leanmotion.sha256"


def _seal(path: Path) -> None:
    digest = file_sha256(path)
    with path.open("ab") as file:
        file.write(_SEAL + bytes.fromhex(digest))


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
