"""Sweeps share the work, leave nothing behind when they die, and stages then merge the bytes they would have drawn."""

import importlib.util
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import BLOCKS, tiny_params, tiny_settings
from typer.testing import CliRunner
from windows_locks import msvcrt

from leanmotion.commands import sweep
from leanmotion.commands.cli import app
from leanmotion.commands.plan import Plan
from leanmotion.cost.inspection import inspect_teacher
from leanmotion.errors import LeanmotionError
from leanmotion.model.pruned_adapter import save_pruned
from leanmotion.model.removal import remove_units
from leanmotion.model.requests import Request, Variant
from leanmotion.model.samplers import Samplers
from leanmotion.model.student import Student, network_digest
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline import platforms
from leanmotion.pipeline.claims import Claims
from leanmotion.pipeline.records import write_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_table, write_table
from leanmotion.pipeline.watched_paths import watched
from leanmotion.videos.rendering import Take, fill
from leanmotion.videos.store import Chunk, ChunkStore, cut

ROOT = Path(__file__).parents[2]
SAMPLING = tiny_settings().sampling
NAME = "ab" * 32


# Claims and sharing: forked processes (no torch runs in them), a plain colour for a clip.


def forked(work) -> int:
    """Run `work` in a child process; its id. Exit code 1 if it raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def jobs(count: int = 12) -> list[tuple[Take, list[Chunk]]]:
    """Two variants, `count` chunks each."""
    asked = [Request(f"prompt {i}", "", i) for i in range(count * SAMPLING.chunk)]
    variants = Variant("a" * 64), Variant("a" * 64, ("mid_0",))
    return [(Take("any", variant, "rank"), cut(variant, asked, SAMPLING)) for variant in variants]


class Painter:
    """Draws slowly, and writes who drew what into a file that all processes append to."""

    def __init__(self, log: Path, seconds: float = 0.02) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self, variant: Variant):
        def draw(requests) -> np.ndarray:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {len(variant.removed)} {requests[0].seed}\n")
            time.sleep(self.seconds)
            return np.stack([np.full((2, 8, 8, 3), r.seed + len(variant.removed), np.uint8) for r in requests])

        return draw

    def drawn(self) -> list[tuple[str, str]]:
        """(process, what) for each chunk drawn."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [tuple(line.split(" ", 1)) for line in lines]  # pyright: ignore


@pytest.fixture
def store(tmp_path, monkeypatch) -> ChunkStore:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    return ChunkStore()


@pytest.fixture(params=["posix", "windows"])
def system(request, monkeypatch) -> str:
    """The locks of both, Windows' made of those that are here."""
    monkeypatch.setattr(platforms, "WINDOWS", request.param == "windows")
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt())
    return request.param


def test_a_claim_excludes_other_processes_and_other_names_are_free(tmp_path, system) -> None:
    claims = Claims(tmp_path / "folder" / "claims")

    def other(name: str) -> int:
        def try_it() -> None:
            with claims.hold(name) as ours:
                os._exit(10 if ours else 11)

        return ended(forked(try_it))

    with claims.hold(NAME) as ours:
        assert ours and other(NAME) == 11 and other("cd" * 32) == 10
    assert other(NAME) == 10


def test_a_process_holds_several_claims_and_gives_each_back_alone(tmp_path, system) -> None:
    """Closing any handle of a file frees all POSIX locks of a process: giving one claim back must not close one."""
    claims, names = Claims(tmp_path / "claims"), ["ab" * 32, "cd" * 32]

    def free_elsewhere() -> list[bool]:
        def look() -> None:
            free = [Claims(tmp_path / "claims").take(name) for name in names]
            os._exit(10 + free[0] + 2 * free[1])

        code = ended(forked(look)) - 10
        return [bool(code & 1), bool(code & 2)]

    assert all(map(claims.take, names))
    # A second object, as another part of the program has it, is no way round.
    assert not Claims(tmp_path / "claims").take(names[0])
    assert free_elsewhere() == [False, False]
    claims.release(names[0])
    assert free_elsewhere() == [True, False]
    claims.release(names[1])
    assert free_elsewhere() == [True, True]


def test_a_killed_holder_leaves_no_claim(tmp_path, system) -> None:
    claims = Claims(tmp_path / "claims")

    def hold_for_ever() -> None:
        with claims.hold(NAME):
            (tmp_path / "held").touch()
            time.sleep(60)

    child = forked(hold_for_ever)
    wait_for((tmp_path / "held").exists)
    with claims.hold(NAME) as ours:
        assert not ours
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    with claims.hold(NAME) as ours:
        assert ours


@pytest.mark.parametrize("sweeps", [2, 4])
def test_sweeps_at_once_draw_each_chunk_once(store, tmp_path, sweeps: int) -> None:
    painter = Painter(tmp_path / "log")
    children = [forked(lambda: fill(jobs(), painter, label="test")) for _ in range(sweeps)]
    assert [ended(child) for child in children] == [0] * sweeps
    drawn = painter.drawn()
    assert set(Counter(what for _, what in drawn).values()) == {1} and len(drawn) == 24
    assert {who for who, _ in drawn} == {str(child) for child in children}, "all took part"
    assert store.missing([chunk for _, chunks in jobs() for chunk in chunks]) == []


def test_a_killed_sweep_leaves_nothing_that_blocks(store, tmp_path, monkeypatch) -> None:
    """Killed while drawing: those who wait for its chunk draw it, and no file of it stays."""
    monkeypatch.setattr("leanmotion.videos.rendering._POLL_SECONDS", 0.05)
    slow, quick = Painter(tmp_path / "slow", seconds=60), Painter(tmp_path / "quick", seconds=0)
    child = forked(lambda: fill(jobs(3), slow, label="test"))
    wait_for(lambda: slow.drawn())
    # Another one waits for what the first has claimed.
    waiting = forked(lambda: fill(jobs(3), quick, label="test"))
    wait_for(lambda: len(quick.drawn()) == 5)
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL and ended(waiting) == 0
    assert len(quick.drawn()) == 6
    assert store.missing([chunk for _, chunks in jobs(3) for chunk in chunks]) == []
    left = [path.name for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert left == ["claims"], "one empty file, for all claims"
    assert (store.folder / "claims").stat().st_size == 0


def test_an_error_while_drawing_frees_the_chunk(store, tmp_path) -> None:
    def broken(variant: Variant):
        raise LeanmotionError("no weights")

    with pytest.raises(LeanmotionError, match="no weights"):
        fill(jobs(), broken, label="test")
    painter = Painter(tmp_path / "log", seconds=0)
    assert ended(forked(lambda: fill(jobs(), painter, label="test"))) == 0 and len(painter.drawn()) == 24


# What is pending, on the tiny teacher.


def stage_main(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / f"stages/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def project(teacher_folder, tmp_path_factory) -> SimpleNamespace:
    """Settings, and the artefacts that a sweep reads: teacher.json, similarity, a student of r1, none of r3."""
    root = tmp_path_factory.mktemp("project")
    folder = teacher_folder(levels=2, layers=1)
    changes: dict[str, Any] = {"clips": {"source": "teacher"}, "prompts": {"rank": 5}}
    settings = tiny_settings(folder, **changes)
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_params(folder, **changes)))
    record, units = inspect_teacher(settings)
    data = root / "data"
    record.write(data / "teacher.json")
    rows = [
        {"unit": u["unit"], "block": u["block"], "granularity": u["granularity"], "timestep": 1, "cosine": i / 100,
         "cosine_std": 0.0, "residual_cosine": 0.0, "count": 1}
        for i, u in enumerate(units)
    ]  # fmt: skip
    write_table(data / "similarity.parquet", "similarity", rows)
    unet = remove_units(load_pipeline(settings.teacher).unet, ["mid_0"])
    for value in unet.parameters():
        value.data.mul_(1.01)
    save_pruned(unet, data / "students/r1/adapter")
    digest = network_digest(data / "students/r1/adapter")
    for place in ("students/r1", "chosen"):
        Student(data / place, "r1", digest, ("mid_0",)).write()
    write_record(data / "chosen/any.json", {"deleted": True})
    stage_main("prompts")(params=root / "params.yaml", out=data / "prompts")
    return SimpleNamespace(root=root, data=data, params=root / "params.yaml", settings=settings)


def run_stages(project: SimpleNamespace, out: Path) -> dict[str, bytes]:
    """The stages that draw, as `dvc repro` calls them; the tables that they write."""
    common = {"params": project.params, "teacher": project.data / "teacher.json"}
    videos = {"prompts": project.data / "prompts", **common}
    stage_main("generate")(split="select", seeds="b", out=out / "full", **videos)
    for block in BLOCKS[:3]:
        stage_main("ablate")(block=block, out=out / block, **videos)
    similarity = project.data / "similarity.parquet"
    stage_main("probe")(name="transformers", out=out / "probe", similarity=similarity, **videos)
    stage_main("render")(student=project.data / "students/r1", out=out / "round", **videos)
    for take in ("original_a", "original_b", "student_b", "other_norm"):
        places = {"chosen": project.data / "chosen", "students": project.data / "students"}
        stage_main("confirm_videos")(take=take, out=out / take, **places, **videos)
    stage_main("clips")(out=out / "clips", **videos)
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_stages_merge_what_two_sweeps_drew_to_the_bytes_of_their_own(project, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "swept"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = sweep.pending(project.settings, project.data, set())
    assert found.left_out == ["render of r3: not there, or out of date: `dvc repro distill` first"]
    # Rank has 3 chunks, the others 2. Of the four probes (1 or 2 units, similar or random), the single ones are
    # ablations; the pruned arm of r1 is drawn on splits of its own. Two sets of 4 confirm, in three takes, and
    # again under the other norm.
    missing = found.missing()
    assert missing == {"generate": 14, "ablate": 21, "probe": 6, "render": 8, "confirm_videos": 24, "clips": 2}
    sweep.sweep_together(project.params, project.data, set(), ["cpu", "cpu"])
    assert sweep.pending(project.settings, project.data, set()).missing() == dict.fromkeys(missing, 0)
    assert len(list((tmp_path / "swept/chunks").rglob("*.parquet"))) == sum(missing.values())

    def no_drawing(self, variant):
        raise AssertionError(f"{variant} is drawn again")

    with monkeypatch.context() as patch:
        patch.setattr(Samplers, "__call__", no_drawing)
        merged = run_stages(project, tmp_path / "merged")
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "own"))
    own = run_stages(project, tmp_path / "drawn")
    assert list(own) == list(merged) and len(own) == 11
    for name, content in own.items():
        assert merged[name] == content, name


def test_the_command(project, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _, path, _ in watched(load_settings(project.params)):
        if not Path(path).exists():
            Path(path).mkdir(parents=True)
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(sweep, "outdated", lambda: {"similarity", "distill@r1", "select"})
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    drawn: list[Variant] = []

    def draw(self, variant):
        drawn.append(variant)
        return lambda requests: np.zeros((len(requests), 3, 32, 32, 3), np.uint8)

    monkeypatch.setattr(Samplers, "__call__", draw)
    command = ["sweep", "--params", str(project.params), "--data", str(project.data)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines() == [
        "left out: probe: not there, or out of date: `dvc repro similarity` first",
        "left out: render of r1, r3: not there, or out of date: `dvc repro distill` first",
        "left out: confirm_videos: not there, or out of date: `dvc repro select` first",
        "to draw: 37 chunks of 2 clips (generate 14, ablate 21, clips 2)",
        "done: `dvc repro` finds these in the store",
    ]
    assert len(drawn) == 8, "each variant once: the original, and seven removals"
    again = CliRunner().invoke(app, command)
    assert again.stdout.splitlines()[-1] == "nothing to draw: every chunk is in the store"


def test_without_dvcs_word_only_settings_and_weights_count(project, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    found = sweep.pending(project.settings, project.data, None)
    assert set(found.missing()) == {"generate", "ablate", "probe", "render", "confirm_videos", "clips"}
    assert found.jobs["probe"] == found.jobs["render"] == found.jobs["confirm_videos"] == []
    assert all("DVC is busy or cannot tell" in line for line in found.left_out) and len(found.left_out) == 3


def test_nothing_is_drawn_to_confirm_no_choice(project, tmp_path, monkeypatch) -> None:
    """The original was kept whole: neither a sweep nor the stages draw it again, and the table is empty."""
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path / "scratch"))
    for name in ("teacher.json", "similarity.parquet"):
        shutil.copyfile(project.data / name, tmp_path / name)
    for place in ("students/base", "chosen"):
        Student(tmp_path / place, "base", "0" * 64, ()).write()
    write_record(tmp_path / "chosen/any.json", {"deleted": False})
    assert sweep.pending(project.settings, tmp_path, set()).jobs["confirm_videos"] == []
    monkeypatch.setattr(Samplers, "__call__", None)
    for take in ("original_a", "student_b", "other_norm"):
        stage_main("confirm_videos")(
            take=take, out=tmp_path / take, params=project.params, prompts=project.data / "prompts",
            teacher=tmp_path / "teacher.json", chosen=tmp_path / "chosen", students=tmp_path / "students",
        )  # fmt: skip
        assert not len(read_table(tmp_path / take, "videos"))


def test_another_student_than_the_chosen_one_confirms_nothing(project, tmp_path) -> None:
    """Weights under the same name, trained anew since."""
    Student(tmp_path / "r1", "r1", "0" * 64, ("mid_0",)).write()
    with pytest.raises(LeanmotionError, match="is not the student that was chosen: `dvc repro select`"):
        stage_main("confirm_videos")(
            take="student_b", out=tmp_path / "out", params=project.params, prompts=project.data / "prompts",
            teacher=project.data / "teacher.json", chosen=project.data / "chosen", students=tmp_path,
        )  # fmt: skip


def test_before_inspect(project, tmp_path) -> None:
    with pytest.raises(LeanmotionError, match="of other settings or weights: `dvc repro inspect` first"):
        sweep.pending(project.settings, project.data, {"inspect"})
    with pytest.raises(LeanmotionError, match=r"teacher\.json: no such file: `dvc repro inspect` makes it"):
        sweep.pending(project.settings, tmp_path, set())


def test_dvc_is_asked_again_while_it_is_locked(monkeypatch) -> None:
    monkeypatch.setattr(sweep, "_BETWEEN_SECONDS", 0)
    asked: list[Path] = []

    def answer(*given):
        def ask(root: Path):
            asked.append(root)
            if isinstance(given[len(asked) - 1], str):
                raise LeanmotionError(given[len(asked) - 1])
            return given[len(asked) - 1]

        asked.clear()
        return ask

    locked, planned = "dvc status: Unable to acquire lock", Plan({"rank": ["x"]}, ["distill@r1"], ["teacher"])
    monkeypatch.setattr(sweep, "plan", answer(locked, locked, planned))
    assert sweep.outdated() == {"rank", "distill@r1", "teacher"} and len(asked) == 3
    monkeypatch.setattr(sweep, "plan", answer(*[locked] * 9))
    assert sweep.outdated() is None and len(asked) == 5
    monkeypatch.setattr(sweep, "plan", answer("dvc status: not a DVC repository"))
    assert sweep.outdated() is None and len(asked) == 1
