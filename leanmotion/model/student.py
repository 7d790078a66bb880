"""Students: a round's outcome as a folder, and what the next round deletes from it."""

from dataclasses import dataclass
from pathlib import Path

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.digests import values_digest
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.settings import Settings


@dataclass(frozen=True)
class Student:
    """A round's outcome: its network (`network_digest`) and its own deletion list. The teacher is `base`.

    `folder` holds `student.json` and, but for `base`, the pruned adapter in `adapter/`. `steps`: training steps behind
    it, over all rounds that led to it.
    """

    folder: Path
    round: str
    weights: str
    removed: tuple[str, ...]
    steps: int = 0

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
        what = {
            "round": self.round, "weights": self.weights, "removed": list(self.removed), "steps": self.steps,
        }  # fmt: skip
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
            return cls(Path(folder), raw["round"], raw["weights"], tuple(raw["removed"]), int(raw["steps"]))
        except (KeyError, TypeError, ValueError) as error:
            raise LeanmotionError(f"{path}: corrupt: delete {folder}, then `dvc repro`") from error

    def verify(self) -> None:
        """Refuse an adapter other than the one that the round wrote: its config holds the weights' SHA-256.

        Raises:
            LeanmotionError: Missing or altered.
        """
        if network_digest(self.adapter) != self.weights:
            raise LeanmotionError(
                f"{self.adapter}: not what round {self.round} wrote: delete {self.folder}, then `dvc repro`"
            )


def network_digest(adapter: Path) -> str:
    """SHA-256 of what a pruned adapter's network is: its weights', its configuration, what is removed.

    Not of the evidence: two processors measure it to different last digits, of a student that is the same to the byte.

    Raises:
        LeanmotionError: Its config is missing, or not what was written.
    """
    config = read_record(adapter / "config.json", made_by="dvc repro")
    return values_digest({key: value for key, value in config.items() if key != "evidence"})


@dataclass(frozen=True)
class RoundPlan:
    """What a round deletes. `removed`: all blocks gone after it, in the model's order; `steps`: its training's.

    `steps` is None where what the round has harmed is to decide (`distillation.budget`).
    """

    name: str
    previous: Student
    removed: tuple[str, ...]
    steps: int | None = None


def plan_round(settings: Settings, name: str, previous: Student, order_file: Path, *, again: bool = False) -> RoundPlan:
    """Read a round's deletion list and check that it goes on from the previous student.

    Args:
        settings: All settings.
        name: The round.
        previous: The student that it starts from.
        order_file: The deletion list.
        again: The list is to be made anew: what the previous student lost need not be in it.

    Raises:
        LeanmotionError: No such round; the list is missing, damaged, or lacks what the previous round deleted.
    """
    if name not in settings.rounds:
        raise LeanmotionError(f"--round {name}: not in params.yaml: name one of {', '.join(settings.rounds)}")
    try:
        wanted = set(read_record(order_file, made_by="dvc repro rank")["removed"])
    except (KeyError, TypeError) as error:
        raise LeanmotionError(f"{order_file}: corrupt: delete it, then `dvc repro rank`") from error
    if unknown := sorted(wanted - set(settings.teacher.blocks)):
        raise LeanmotionError(f"{order_file}: teacher.blocks has no {unknown[0]}: `dvc repro rank`")
    if not again and (brought_back := sorted(set(previous.removed) - wanted)):
        raise LeanmotionError(f"{order_file}: lacks {brought_back[0]}, deleted in {previous.round}: `dvc repro rank`")
    removed = tuple(b for b in settings.teacher.blocks if b in wanted)
    # A list that is only looked at is trained by no one: its stage hangs on no budget.
    return RoundPlan(name, previous, removed, None if again else settings.steps_of(name))
