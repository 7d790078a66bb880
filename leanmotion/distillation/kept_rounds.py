"""Finished rounds, kept in scratch under the address of all that they depend on.

DVC trains a round again when anything changes in a room that it hangs on, and deletes the student first. Where the
address is the same, so are the student's bytes: they are put back, and nothing is loaded or trained.
"""

import logging
import os
import shutil
from pathlib import Path

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.digests import file_sha256
from leanmotion.pipeline.platforms import sync
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.scratch import scratch_folder
from leanmotion.pipeline.writing import whole

_RECORD = "kept.json"

logger = logging.getLogger(__name__)


class KeptRounds:
    """Students' folders as `<folder>/<round>/<address>`, of each round the newest alone.

    What is kept are hard links to the files that the round wrote; on another file system they are copies. They need no
    room of their own where DVC's cache links too (`dvc config cache.type hardlink`): it keeps these very files. By
    default it copies, and a kept round takes the room of its student.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or scratch_folder() / "rounds"

    def path(self, name: str, address: str) -> Path:
        """Where a round of that address lies, or will, with the SHA-256 of its files."""
        return self.folder / name / address

    def keep(self, name: str, address: str, student: Path) -> None:
        """Keep a student's folder, whole or not at all, and drop what was kept of the same round before.

        Raises:
            LeanmotionError: It cannot be written.
        """
        place, digests = self.path(name, address), {}
        with whole(place) as partial:
            for source in _files(student):
                digests[source.relative_to(student).as_posix()] = file_sha256(source)
                _link(source, partial / source.relative_to(student))
            write_record(partial / _RECORD, {"round": name, "address": address, "files": digests})
            shutil.rmtree(place, ignore_errors=True)
        for older in place.parent.glob("[!.]*"):
            if older != place:
                shutil.rmtree(older, ignore_errors=True)

    def take(self, name: str, address: str, out: Path) -> bool:
        """Write what was kept into a student's folder, if there is such a round and it is intact; else drop it.

        Copies: through a link, an edit of the student in place would reach what is kept, and DVC's cache with it.

        Raises:
            LeanmotionError: The student's folder cannot be written.
        """
        place = self.path(name, address)
        if not place.is_dir():
            return False
        try:
            record = read_record(place / _RECORD, made_by="dvc repro distill")
            found = {path.relative_to(place).as_posix(): file_sha256(path) for path in _files(place)}
            if record != {"round": name, "address": address, "files": found}:
                raise LeanmotionError(f"{place}: its files are not those that were kept")
        except LeanmotionError as error:
            logger.warning("a kept round is damaged, and trained again: %s", error)
            shutil.rmtree(place, ignore_errors=True)
            return False
        shutil.rmtree(out / "adapter", ignore_errors=True)
        for source in _files(place):
            with whole(out / source.relative_to(place)) as partial:
                shutil.copyfile(source, partial)
        return True


def _files(folder: Path) -> list[Path]:
    """All files of a student, its own record last: without it there is no student."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != _RECORD]
    return sorted(found, key=lambda path: (path.name == "student.json", path))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        sync(target)
    sync(target.parent)
