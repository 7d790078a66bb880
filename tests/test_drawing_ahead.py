"""A stage that draws goes on for its siblings: under the real DVC, as far as the running command covers."""

import shutil
from pathlib import Path

from micro import Clone
from tiny import BLOCKS

TRACER = """

def _watch_drawing() -> None:
    from leanmotion.errors import LeanmotionError
    from leanmotion.model.samplers import Samplers

    inner = Samplers.__call__

    def watched(self, variant):
        block, drawn, failing = variant.removed[0], Path(os.environ["DRAWN"]), Path(os.environ["FAILING"])
        # DVC takes a family's stages in no fixed order: the second block to be drawn is the one that fails.
        if failing.is_file() and drawn.read_text() and not failing.read_text():
            failing.write_text(block)
        if failing.is_file() and failing.read_text() == block:
            raise LeanmotionError("no clips of that one")
        with drawn.open("a") as file:
            file.write(f"{os.environ['DVC_STAGE']} {block}\\n")
        return inner(self, variant)

    Samplers.__call__ = watched


_unwatched = run


def run(main, **how):
    _watch_drawing()
    _unwatched(main, **how)
"""


class Watched(Clone):
    """A finished project whose ablations were never drawn, which notes what each stage draws."""

    @classmethod
    def new_from(cls, micro: Path, folder: Path) -> "Watched":
        clone = cls(shutil.copytree(micro / "clone", folder, symlinks=True))
        with (folder / "leanmotion/pipeline/stage.py").open("a") as file:
            file.write(TRACER)
        for path in (".dvc/cache", ".scratch", "data/videos/ablate"):
            shutil.rmtree(folder / path)
        return clone

    @property
    def failing(self) -> Path:
        """Where it stands, the second block to be drawn fails from then on, and its name is written there."""
        return self.folder.parent / "failing"

    def ablate(self, *targets: str) -> tuple[int, str, dict[str, list[str]]]:
        """`dvc repro` of these: its exit code, what was said, and which blocks' clips each stage drew."""
        log = self.folder.parent / "drawn"
        log.write_text("")
        env = {**self.env, "DRAWN": str(log), "FAILING": str(self.failing)}
        done = self.try_dvc("repro", *targets, env=env, known=True)
        drawn: dict[str, list[str]] = {}
        for line in log.read_text().splitlines():
            stage, block = line.split()
            drawn.setdefault(stage, []).append(block)
        return done.returncode, done.stderr, drawn


def test_a_target_asked_for_alone_draws_its_own_and_of_a_family_the_first_draws_all(
    micro: Path, tmp_path: Path
) -> None:
    clone = Watched.new_from(micro, tmp_path / "project")
    code, said, drawn = clone.ablate("ablate@mid_0")
    assert code == 0 and drawn == {"ablate@mid_0": ["mid_0"]}, said
    code, said, drawn = clone.ablate("ablate")
    ((first, blocks),) = drawn.items()
    assert code == 0 and first == f"ablate@{blocks[0]}" and sorted(blocks) == sorted({*BLOCKS} - {"mid_0"}), said
    # Up to date, none is drawn again for a chunk that is gone.
    shutil.rmtree(clone.folder / ".scratch/chunks")
    code, said, drawn = clone.ablate("ablate")
    assert code == 0 and drawn == {}, said


def test_what_fails_for_a_sibling_is_a_warning_there_and_an_error_in_its_own_stage(micro: Path, tmp_path: Path) -> None:
    clone = Watched.new_from(micro, tmp_path / "project")
    clone.failing.touch()
    code, said, drawn = clone.ablate("ablate")
    assert code != 0, said
    ((_, blocks),) = drawn.items()
    failed = clone.failing.read_text()
    assert sorted(blocks) == sorted({*BLOCKS} - {failed})
    warning = f"warning: drawing ahead for ablate@{failed}: no clips of that one: left to that stage\n"
    assert said.count(warning) == 1
    assert said.count("error: no clips of that one\n") == 1
    assert not (clone.folder / f"data/videos/ablate/{failed}.parquet").exists()
    clone.failing.unlink()
    code, said, drawn = clone.ablate("ablate")
    assert code == 0 and drawn == {f"ablate@{failed}": [failed]}, said
