"""Linux, macOS and Windows: one module knows which of them it is on, and each of its ways is taken here."""

import errno
import fcntl
import io
import os
import subprocess
import sys
import threading
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from committed import ROOT, committed
from flow import PACKAGE, closure, stages
from portable import of_one_system, without_encoding
from windows_locks import msvcrt

from leanmotion.pipeline import platforms, terminal
from leanmotion.pipeline.claims import Claims
from leanmotion.pipeline.dvc import is_dvc
from leanmotion.pipeline.processes import when_orphaned
from leanmotion.pipeline.records import read_record, write_record
from leanmotion.pipeline.tables import read_frame, write_table
from leanmotion.pipeline.writing import whole, write_text

SOURCES = sorted(path for folder in ("leanmotion", "stages", "examples") for path in (ROOT / folder).rglob("*.py"))

ASCII = {"pruned_adapter.py": 5, "sprites_reader.py": 3}
"""Findings in JSON as `json.dumps` writes it, which is ASCII: any code page reads it. An encoding would move addresses
of stored work. Two of the five are a card that a caller hands in; exports write theirs themselves."""


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Windows refuses is refused: folders are not opened, nor is flushed what is not open for writing."""
    opened, flushed = os.open, os.fsync

    def open_file(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, *more, **options)

    def flush(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed(descriptor)

    monkeypatch.setattr(platforms, "WINDOWS", True)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt())


def test_no_other_module_asks_for_the_system_or_takes_what_only_one_has() -> None:
    found = {path.relative_to(ROOT).as_posix(): list(of_one_system(path)) for path in SOURCES}
    assert found.pop("leanmotion/pipeline/platforms.py"), "it is the one that does"
    assert not any(found.values()), {name: lines for name, lines in found.items() if lines}


def test_texts_have_the_same_bytes_on_every_system() -> None:
    found = {path.name: lines for path in SOURCES if (lines := list(without_encoding(path)))}
    assert {name: len(lines) for name, lines in found.items()} == ASCII, found


def test_what_is_one_systems_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "import fcntl, os, sys\nos.fork()\nif sys.platform: open('/dev/null')\nsubprocess.run('ls', shell=True)\n"
        "signal.SIGKILL\nPath('x').write_text('x')\nopen('x', 'w')\nrun(text=True)\nPath('x').open('rb')\n"
        "Path('x').write_text('x', encoding='utf-8')\n"
    )
    assert {line.split()[1] for line in of_one_system(tmp_path / "x.py")} == {
        "fcntl", "os.fork", "sys.platform", "/dev/null", "shell", "signal.SIGKILL",
    }  # fmt: skip
    lines = [line.split(":")[1].split()[0] for line in without_encoding(tmp_path / "x.py")]
    assert sorted(set(lines)) == ["10", "3", "6", "7", "8"]


def test_stages_are_started_without_a_shells_own_words() -> None:
    """DVC hands them to `cmd.exe` on Windows."""
    for stage in stages().values():
        first, script, *words = stage["cmd"].split()
        assert (first, Path(script).parent.name) == ("python", "stages")
        assert not set("".join(words)) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./${}")


def test_files_have_names_that_every_system_takes() -> None:
    """Of the repository, and of all that a run writes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8")
    locked = yaml.safe_load(committed("dvc.lock").read_text(encoding="utf-8"))["stages"]
    names = {*listed.stdout.split("\0"), *(out["path"] for stage in locked.values() for out in stage.get("outs", ()))}
    for name in names - {""}:
        for part in Path(name).parts:
            assert not set(part) & set('<>:"\\|?*') and part == part.rstrip(". "), name
            assert not PureWindowsPath(part).is_reserved(), name
    assert len({name.lower() for name in names}) == len(names), "two differ in case alone"


@pytest.mark.usefixtures("windows")
def test_all_that_is_written_is_written_on_windows(tmp_path: Path) -> None:
    for time in range(2):  # the second over the first
        write_text(tmp_path / "t.txt", f"é\n{time}\n")
        write_table(tmp_path / "t.parquet", "losses", [{"step": time}])
        write_record(tmp_path / "t.json", {"time": time})
    with whole(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "file").write_bytes(b"x")
    assert (tmp_path / "t.txt").read_bytes() == "é\n1\n".encode()
    assert read_frame(tmp_path / "t.parquet", "losses")["step"].tolist() == [1]
    assert read_record(tmp_path / "t.json", made_by="x") == {"time": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "t.json", "t.parquet", "t.txt"]


@pytest.mark.parametrize("refusals", [0, 3, 1000])
def test_a_file_that_is_open_elsewhere_is_tried_again_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    left, replace = iter(range(refusals)), Path.replace

    def busy(source: Path, target: Path) -> Path:
        if next(left, None) is not None:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return replace(source, target)

    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(platforms, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(platforms, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(platforms, "WINDOWS", True)
    if refusals < 1000:
        platforms.rename(tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old").read_text() == "new"
        return
    with pytest.raises(PermissionError):
        platforms.rename(tmp_path / "new", tmp_path / "old")
    monkeypatch.setattr(platforms, "WINDOWS", False)
    before = next(left)
    with pytest.raises(PermissionError):
        platforms.rename(tmp_path / "new", tmp_path / "old")
    assert next(left) == before + 2, "elsewhere a refusal is meant"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("system", ["posix", "windows"])
def test_claims_where_the_file_system_has_no_locks_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, code: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(platforms, "WINDOWS", system == "windows")
    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_UNLCK=0, LK_NBLCK=2, locking=refuse))
    claims = Claims(tmp_path / "claims")
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            claims.take("ab" * 32)
    else:
        with claims.hold("ab" * 32) as ours:
            assert ours is (code != errno.EACCES)


@pytest.mark.parametrize(
    ("word", "is_it"),
    [
        ("dvc", True), ("/usr/bin/dvc", True), (r"C:\Users\x\venv\Scripts\dvc.exe", True), ("DVC.EXE", True),
        ("dvclive", False), ("/home/dvc/python", False), (r"C:\dvc\python.exe", False),
    ],
)  # fmt: skip
def test_dvc_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch, word: str, is_it: bool) -> None:
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: ["python", word, "repro"])
    assert platforms.is_program(word, "dvc") is is_dvc(psutil.Process()) is is_it


@pytest.mark.parametrize("gone", ["its number", "its process"])
def test_an_orphan_is_told_by_its_parents_number_or_process(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    """Windows leaves a process the number of its parent, whatever became of that."""
    acted, numbers = threading.Event(), iter([7, *(8 if gone == "its number" else 7 for _ in range(1000))])
    parent = SimpleNamespace(is_running=lambda: gone != "its process")
    monkeypatch.setattr(os, "getppid", lambda: next(numbers))
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parent=lambda: parent))
    when_orphaned(acted.set)
    assert acted.wait(5)


@pytest.mark.parametrize("windows", [False, True])
def test_a_terminals_interrupt_is_kept_from_the_launcher(monkeypatch: pytest.MonkeyPatch, windows: bool) -> None:
    monkeypatch.setattr(platforms, "WINDOWS", windows)
    if windows:
        assert platforms.own_group() == {"creationflags": 512}  # subprocess.CREATE_NEW_PROCESS_GROUP there
        return
    code = "import os; print(os.getpgid(0) == os.getpid())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, **platforms.own_group())
    assert done.stdout.strip() == b"True"


def test_letters_that_a_code_page_lacks_end_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output as Windows gives it to a stage whose output goes into a pipe."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", write_through=True))
    with pytest.raises(UnicodeEncodeError):
        print("ключ 🎬")
    platforms.never_refuse_letters()
    terminal.show("títle", ["name"], [["ключ"]])
    assert "títle" in (said := written.getvalue().decode("cp1252")) and "????" in said


def test_stages_that_sum_in_float64_where_networks_are_stay_on_the_cpu() -> None:
    """By the imports of their scripts: an Apple GPU has no float64."""
    elsewhere = {
        "probing/similarity.py": "moves to the CPU first",
        "evaluation/clip_scores.py": "likewise",
        "influence/step_weights.py": "a scheduler's own numbers, on the CPU",
        "distillation/run.py": "rows of a table, on the CPU",
    }
    wide = {
        path
        for path in PACKAGE.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in ("torch.float64", ".double()"))
    }
    wide -= {PACKAGE / name for name in elsewhere} | set((PACKAGE / "sprites_training").iterdir())
    assert {path.parent.name for path in wide} == {"influence", "distillation"}
    # `check` and `export` import what trains for its settings.
    asked = {path for path in (ROOT / "stages").glob("*.py") if closure(path) & wide} - {
        ROOT / "stages/check.py", ROOT / "stages/export.py",
    }  # fmt: skip
    said = {path for path in (ROOT / "stages").glob("*.py") if "float64=True" in path.read_text(encoding="utf-8")}
    assert said == asked
