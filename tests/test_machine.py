"""Every way that the code takes by the machine it is on, forced here on any machine.

Kernels of other processors are another matter: tests/machines.py runs the numeric tests on them.
"""

import io
import os
import re
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import committed
import numpy as np
import psutil
import pytest
import torch
from browser import chromium
from committed import ROOT
from machines import CHOICES, ways
from surroundings import FOR_TESTS, settle
from tiny import tiny_settings

from leanmotion.commands import estimate
from leanmotion.errors import LeanmotionError
from leanmotion.model.sampler import Sampler
from leanmotion.model.weights import locate
from leanmotion.pipeline import platforms, stage
from leanmotion.pipeline import terminal as summary
from leanmotion.pipeline.dvc import is_dvc
from leanmotion.pipeline.processes import SESSION, device, devices
from leanmotion.pipeline.progress import Progress
from leanmotion.pipeline.tables import write_table
from leanmotion.videos import codec


@pytest.fixture(params=[0, 2], ids=["no GPU", "two GPUs"])
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.delenv("LEANMOTION_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


def test_networks_run_on_a_gpu_where_there_is_one(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device() == ("cuda" if gpus else "cpu")
    assert devices() == (["cuda:0", "cuda:1"] if gpus else ["cpu"])
    # Of several ranks each has its own.
    for name, value in {SESSION: "x", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert device() == ("cuda:1" if gpus else "cpu")
    # What the environment says goes before what is found.
    for chosen in ("cpu", "cuda:1") if gpus else ("cpu",):
        monkeypatch.setenv("LEANMOTION_DEVICE", chosen)
        assert device() == chosen and devices() == [chosen]


def test_peak_memory_is_the_gpus_or_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes: of the process Linux says KiB, macOS bytes."""
    import resource

    cuda, mps = SimpleNamespace(max_memory_allocated=lambda: 7), SimpleNamespace(driver_allocated_memory=lambda: 8)
    gpu = SimpleNamespace(cuda=cuda, mps=mps)
    assert estimate._peak_bytes(gpu, "cuda:0") == 7 and estimate._peak_bytes(gpu, "mps") == 8
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=2048))
    for system, expected in (("linux", 2048 * 1024), ("darwin", 2048)):
        monkeypatch.setattr(sys, "platform", system)
        assert estimate._peak_bytes(gpu, "cpu") == expected
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=9))
    monkeypatch.setattr(platforms, "WINDOWS", True)
    monkeypatch.setattr(psutil, "Process", lambda: told)
    assert estimate._peak_bytes(gpu, "cpu") == 9


@pytest.mark.parametrize(
    ("threads", "where", "chunk", "lanes"),
    [(1, "cpu", 4, 1), (2, "cpu", 4, 2), (2, "cpu", 3, 1), (4, "cpu", 4, 4), (2, "cuda:0", 4, 1)],
)
def test_a_chunk_is_drawn_in_as_many_shares_as_cores(
    monkeypatch: pytest.MonkeyPatch, threads: int, where: str, chunk: int, lanes: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    sampler: Any = Sampler.__new__(Sampler)
    sampler.settings, sampler.device = tiny_settings(sampling={"chunk": chunk}).sampling, where
    sampler.pipeline = SimpleNamespace(unet=torch.nn.Linear(1, 1))
    assert sampler.lanes() == lanes


@pytest.mark.parametrize("said", ["No working C++ compiler found in cxx: (None, 'g++')", "Failed to find C compiler."])
def test_compiling_without_a_compiler_is_one_line(
    said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path))

    def main() -> None:
        raise RuntimeError(said)

    with pytest.raises(SystemExit) as done:
        stage.guarded(main)()
    line = capsys.readouterr().err
    assert done.value.code == 2 and line.count("\n") == 1 and line.startswith("error: sampling.torch_compile is true")


def test_other_errors_of_torch_are_no_missing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path))

    def main() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        stage.guarded(main)()


def test_torch_says_so_when_there_is_no_compiler(tmp_path: Path) -> None:
    """The very words, of the torch that is installed: without any compiler on the path."""
    code = "import torch; torch.compile(lambda x: x.sin() + 1)(torch.ones(8))"
    environment = {**os.environ, "CXX": str(tmp_path / "g++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and stage._NO_COMPILER[0] in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("cores", [1, 5])
def test_clips_keep_their_bytes_on_few_cores_and_many(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(codec, "_WORKERS", cores)
    clips = list(np.random.default_rng(0).integers(0, 256, (7, 2, 16, 16, 3), dtype=np.uint8))
    videos = codec.encode_all(clips)
    assert videos == [codec.encode(clip) for clip in clips]
    assert all(np.array_equal(a, b) for a, b in zip(codec.decode_all(videos), clips, strict=True))


@pytest.mark.parametrize("allowed", [True, False])
def test_partials_of_writers_that_may_not_be_looked_at_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: bool
) -> None:
    """Another user's, where the system hides processes."""

    def process(number: int) -> Any:
        raise psutil.NoSuchProcess(number) if allowed else psutil.AccessDenied(number)

    partial = tmp_path / ".t.1234.partial"
    partial.write_bytes(b"half")
    monkeypatch.setattr(psutil, "Process", process)
    write_table(tmp_path / "t", "losses", [{"step": 1}])
    assert partial.exists() is not allowed


def test_a_parent_that_may_not_be_looked_at_is_no_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(process: psutil.Process) -> list[str]:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: ["python", "/usr/bin/dvc", "repro"])
    assert is_dvc(psutil.Process())
    monkeypatch.setattr(psutil.Process, "cmdline", denied)
    assert not is_dvc(psutil.Process())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_bar_and_its_own_width(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    said, shown = io.StringIO(), io.StringIO()
    for stream in (said, shown):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")  # on a dumb one, 80 whatever it says
    progress = Progress("drawing", 10)
    progress.update(5)
    progress.close()
    assert ("drawing" in said.getvalue()) is terminal
    summary.show("title", ["name", "value"], [["word " * 20, 1.0]])
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue())  # a terminal's bold
    widest = max(len(line) for line in plain.splitlines())
    assert widest <= 60 if terminal else widest > 100


@pytest.mark.parametrize("offline", [True, False])
def test_what_the_hub_does_not_give_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool) -> None:
    """Online it says what the hub answered."""
    import huggingface_hub
    from huggingface_hub import constants

    def none(*_: Any, **__: Any) -> None:
        raise OSError("404: no such\nmodel")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", none)
    (tmp_path / "pin.yaml").write_text("hub: someone/some-adapter\n")
    with pytest.raises(LeanmotionError) as caught:
        locate(str(tmp_path / "pin.yaml"), role="adapter")
    assert str(caught.value).endswith("or name a folder" if offline else "from the hub: 404: no such model")


@pytest.mark.parametrize("home", [None, "nowhere/deep/hub", "a file/hub"], ids=["unset", "not there", "not possible"])
def test_the_hubs_cache_is_needed_by_hub_models_alone(home: str | None, tmp_path: Path) -> None:
    """A folder is a folder, whatever HF_HOME says; a hub model that is not to be had ends in one line."""
    (tmp_path / "a file").write_text("")
    (tmp_path / "pin.yaml").write_text("hub: someone/some-adapter\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
    }  # fmt: skip
    if home is not None:
        environment["HF_HOME"] = str(tmp_path / home)
    code = (
        "from leanmotion.model.weights import locate\nfrom leanmotion.errors import LeanmotionError\n"
        "print(locate('.', role='base'))\n"
        "try: locate('pin.yaml', role='adapter')\n"
        "except LeanmotionError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2 and lines[0] == ".", done.stderr
    assert "HF_HUB_OFFLINE is set, and the hub's cache lacks it" in lines[1]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `committed` takes for the project; its copies lie apart from those of other tests."""
    monkeypatch.setattr(committed, "ROOT", tmp_path / "project")
    monkeypatch.setattr(committed, "_COPIES", SimpleNamespace(name=str(tmp_path / "copies")))
    monkeypatch.setattr(committed, "_copied", committed._copied.__wrapped__)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def commit_all(folder: Path) -> None:
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=folder, check=True)


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ("no git", "git is not installed"),
        ("no repository", "not a git repository"),
        ("another's repository", "the commit has no such file"),
    ],
)
def test_outside_git_what_needs_a_commit_is_skipped(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, there: str, why: str
) -> None:
    """As in an archive of the sources, also one unpacked inside something else under git."""
    if there == "another's repository":
        commit_all(elsewhere.parent)
    if there == "no git":
        monkeypatch.setenv("PATH", str(elsewhere))
    with pytest.raises(pytest.skip.Exception, match=f"metrics as git holds it: .*{why}"):
        committed.committed("metrics")
    assert committed.weights("data/extractor") == elsewhere / "data/extractor"


def test_the_commit_is_read_whoever_owns_the_files_and_whatever_lies_here(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = elsewhere / "metrics/deep/ü 1.json"
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    commit_all(elsewhere)
    file.write_text("mine")
    (elsewhere / "metrics/more.json").write_text("mine")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook
    if os.geteuid() == 0:  # as in a container, where root reads what a user has checked out
        for path in (elsewhere, elsewhere / ".git"):
            os.chown(path, 1234, 1234)
    found = committed.committed("metrics")
    assert [path.name for path in found.rglob("*.json")] == ["ü 1.json"]
    assert (found / "deep/ü 1.json").read_text() == "theirs"


@pytest.mark.parametrize("there", [["chromium"], ["google-chrome"], ["chromium-browser", "google-chrome"], []])
def test_the_report_is_driven_in_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str]
) -> None:
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LEANMOTION_CHROMIUM", raising=False)
    if there:
        assert chromium() == str(tmp_path / there[0])
    else:
        with pytest.raises(pytest.skip.Exception, match="no Chromium: install"):
            chromium()
    monkeypatch.setenv("LEANMOTION_CHROMIUM", "/somewhere/chrome")
    assert chromium() == "/somewhere/chrome"


CI_TOOLS = {
    "id": 'echo "$USER_ID"',
    "apt-get": 'echo "apt-get $1" >> log; exit "$APT"',
    "make": 'echo "make $*" >> log',
    "timeout": 'shift; exec "$@"',
}


@pytest.mark.parametrize(
    ("there", "user", "apt", "installs"),
    [
        ("chromium", "0", "0", False),
        ("google-chrome", "0", "0", False),
        ("LEANMOTION_CHROMIUM", "0", "0", False),
        ("", "1000", "0", False),
        ("", "0", None, False),
        ("", "0", "0", True),
        ("", "0", "100", True),
    ],
)
def test_ci_gets_chromium_where_it_can_and_goes_on_where_it_cannot(
    tmp_path: Path, there: str, user: str, apt: str | None, installs: bool
) -> None:
    """`.ci/run` with all that it calls put in its place: as root or not, with apt or not, which fails or not."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {name: text for name, text in CI_TOOLS.items() if name != "apt-get" or apt is not None}
    if there.islower():
        scripts[there] = ""
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    for name in ("bash", "sh", "dirname", "mktemp", "tail", "rm", "env"):
        found = next(place for place in (Path("/bin"), Path("/usr/bin")) if (place / name).exists())
        (tools / name).symlink_to(found / name)
    environment = {"PATH": str(tools), "USER_ID": user, "APT": apt or "0", "LC_ALL": "C", "TMPDIR": str(tmp_path)}
    if there.isupper():
        environment["LEANMOTION_CHROMIUM"] = "/somewhere/chrome"
    done = subprocess.run(
        [str(tools / "bash"), str(tmp_path / ".ci/run")], env=environment, capture_output=True, text=True
    )
    log = (tmp_path / "log").read_text().splitlines()
    assert done.returncode == 0, done.stderr
    assert log[0] == ("apt-get update" if installs else "make test")
    assert log[-2:] == ["make test", "make test-machines WAYS=short"]
    assert ("will be skipped" in done.stderr) is (installs and apt != "0")


def test_tests_see_the_same_from_every_shell() -> None:
    odd = {
        "LEANMOTION_SCRATCH": "/theirs", "LEANMOTION_DEVICE": "cuda:3", "LEANMOTION_ACCELERATE_CONFIG": "x",
        "RANK": "1", "GIT_DIR": "/theirs", "DVC_STUDIO_TOKEN": "x", "FORCE_COLOR": "1", "COLUMNS": "20",
    }  # fmt: skip
    kept = {"PATH": "/bin", "HF_HOME": "/theirs", "RANKING": "x", "TZ": "UTC", **dict.fromkeys(FOR_TESTS, "x")}
    plain: dict[str, str] = dict(kept)
    odd |= kept
    settle(plain)
    settle(odd)
    assert odd == plain and kept.items() <= plain.items() and plain["LEANMOTION_DEVICE"] == "cpu"


def test_any_two_choices_of_the_ways_of_kernels_meet() -> None:
    """A fault that needs two of them is met, in a fourth of the ways that there are."""
    places = range(len(CHOICES[0]))
    assert len(CHOICES) == len(set(CHOICES)) == 6
    for i, j in combinations(places, 2):
        asked = set(product({way[i] for way in CHOICES}, {way[j] for way in CHOICES}))
        assert {(way[i], way[j]) for way in CHOICES} == asked
    short = list(ways(short=True))
    assert short == list(ways(short=False))[:1] and short[0].environment["ATEN_CPU_CAPABILITY"] == "default"
