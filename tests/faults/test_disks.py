"""Full disks, folders without rights, files in the way: one clear line, the old file whole, and on it goes after."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger import NOTES, case
from project import Project, refused, run, run_loud

FAMILY = "disk full, read-only"
SMALL = 96 * 1024  # bytes of the small disk: less than any of the outputs below needs with its neighbours


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of `SMALL` bytes: only root may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no small disk without the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


OUTPUTS = [
    ("generate", {"split": "rank", "seeds": "a", "out": "small/new.parquet"}),
    ("embed", {"out": "small/features"}),
    ("clips", {"out": "small/clips.parquet"}),
    ("distill", {"name": "r2", "previous": "data/students/base", "order": "data/order/r2.json", "out": "small/new"}),
    ("export", {"out": "small/export"}),
    ("report", {"out": "small/report.html"}),
]


def _fill(disk: Path) -> Path:
    """Leave two pages free: enough to open a file, not to fill one."""
    ballast = disk / "ballast"
    room = shutil.disk_usage(disk).free - 8192
    ballast.write_bytes(bytes(max(room, 0)))
    return ballast


@pytest.mark.parametrize(("stage", "arguments"), OUTPUTS, ids=[stage for stage, _ in OUTPUTS])
def test_a_full_disk(project: Project, small_disk: Path, stage: str, arguments: dict[str, str]) -> None:
    Path("small").symlink_to(small_disk)
    _fill(small_disk)
    with case(FAMILY):
        said = refused(lambda: run_loud(stage, arguments), "space", within=120)
        assert "small" in said, said
        # Whole files that still fitted may stay; nothing partial may.
        assert not [p.name for p in small_disk.rglob("*") if p.name.startswith(".") or ".partial" in p.name]
    with case(FAMILY):
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        run(stage, **arguments)
        assert (project.folder / arguments["out"]).exists()
        assert not list(small_disk.rglob("*.partial"))


@pytest.mark.parametrize("stage", ["generate", "embed", "clips", "distill"])
def test_a_full_scratch_disk(project: Project, small_disk: Path, monkeypatch, stage: str) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(small_disk))
    ballast = _fill(small_disk)
    arguments = {**dict(OUTPUTS)[stage]}
    arguments["out"] = arguments.get("out", "new").replace("small/", "")
    with case(FAMILY):
        refused(lambda: run_loud(stage, arguments), "space", within=120)
    with case(FAMILY):
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        run(stage, **arguments)


def test_a_file_size_limit_is_a_full_disk_too(project: Project) -> None:
    """What a quota does, without any rights: the whole script, in a process of its own under the limit."""
    from project import ROOT

    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    old = Path("data/report.html").read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with case(FAMILY):
        command = [sys.executable, "-c", code, str(ROOT / "stages/report.py")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2 and len(lines) == 1, done.stderr
        assert "report.html" in lines[0] and "cannot be written" in lines[0]
        assert Path("data/report.html").read_bytes() == old
        assert not list(Path("data").glob("*.partial"))


@pytest.mark.parametrize(("stage", "arguments"), OUTPUTS, ids=[stage for stage, _ in OUTPUTS])
def test_a_file_where_a_folder_should_be(project: Project, stage: str, arguments: dict[str, str]) -> None:
    """Root may write anywhere, so that this stands for missing rights too."""
    Path("small").write_text("in the way")
    with case(FAMILY):
        said = refused(lambda: run_loud(stage, arguments), "small", within=120)
        assert "rights" in said and Path("small").read_text() == "in the way"


def test_scratch_that_is_no_folder(project: Project, monkeypatch) -> None:
    Path("scratch").write_text("in the way")
    monkeypatch.setenv("LEANMOTION_SCRATCH", "scratch")
    with case(FAMILY):
        refused(lambda: run_loud("check", {}), "scratch")


@pytest.mark.parametrize(("stage", "arguments"), OUTPUTS[:1] + OUTPUTS[-2:], ids=["generate", "export", "report"])
def test_outputs_that_are_read_only(project: Project, small_disk: Path, stage: str, arguments: dict[str, str]) -> None:
    """A file system mounted read-only, which holds root off as well."""
    Path("small").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with case(FAMILY):
        said = refused(lambda: run_loud(stage, arguments), "small", within=120)
        assert "ead-only" in said
    with case(FAMILY):
        subprocess.run(["mount", "-o", "remount,rw,size=64m", str(small_disk)], check=True)
        run(stage, **arguments)


def test_rights_are_noted() -> None:
    if os.geteuid():
        NOTES.append("The cases on a small disk and a read-only one were skipped: they take the right to mount.")
