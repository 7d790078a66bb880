"""A round's outcome as a folder: `student.json` and, but for the teacher itself, its pruned adapter."""

from dataclasses import dataclass
from pathlib import Path

from leanmotion.errors import LeanmotionError
from leanmotion.records import read_record, write_record
from leanmotion.weights import file_sha256


@dataclass(frozen=True)
class Student:
    """A round's outcome: its weights by SHA-256 and its own deletion list. The teacher is the student of `base`.

    `folder` holds `student.json` and, but for `base`, the pruned adapter in `adapter/`.
    """

    folder: Path
    round: str
    weights: str
    removed: tuple[str, ...]

    @property
    def adapter(self) -> Path:
        """The pruned adapter's folder."""
        return self.folder / "adapter"

    @property
    def is_teacher(self) -> bool:
        """Whether nothing is removed or trained."""
        return not self.removed

    def write(self) -> None:
        """Write `student.json`."""
        what = {"round": self.round, "weights": self.weights, "removed": list(self.removed)}
        write_record(self.folder / "student.json", what)

    @classmethod
    def read(cls, folder: str | Path) -> "Student":
        """Read a student's folder.

        Raises:
            LeanmotionError: Missing or damaged.
        """
        path = Path(folder) / "student.json"
        raw = read_record(path, made_by="dvc repro")
        try:
            return cls(Path(folder), raw["round"], raw["weights"], tuple(raw["removed"]))
        except (KeyError, TypeError) as error:
            raise LeanmotionError(f"{path}: corrupt: delete {folder}, then `dvc repro`") from error

    def verify(self) -> None:
        """Refuse an adapter other than the one that the round wrote: its config holds the weights' SHA-256.

        Raises:
            LeanmotionError: Missing or altered.
        """
        config = self.adapter / "config.json"
        if not config.is_file() or file_sha256(config) != self.weights:
            raise LeanmotionError(
                f"{config}: missing, or not what round {self.round} wrote: delete {self.folder}, then `dvc repro`"
            )
