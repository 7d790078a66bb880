"""A stage on two ranks: the bytes of one process, also when a rank is killed; and nothing outlives its starter."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from spread import STAGES, work
from tiny import BLOCKS, tiny_params

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline import launch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/spread.py"
TWO = ROOT / "configs/accelerate-2cpu.yaml"
HEAVY = {
    *("generate", "influence", "ablate", "probe", "render", "confirm_videos", "embed", "clips", "distill"),
    *("teacher", "extractor"),
}

pytestmark = pytest.mark.timeout(600)


def start(what: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LEANMOTION_SCRATCH": str(folder / "scratch")}
    ours |= {launch.CONFIG: str(TWO), "LEANMOTION_MAX_RESTARTS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), what, str(folder)], cwd=folder, env={**os.environ, **ours},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(met: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ranks_up(folder: Path) -> list[psutil.Process]:
    """The ranks that have begun, and still live."""
    pids = [int(path.name.split("-")[-1]) for path in folder.glob("up-[0-9]*")]
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Any) -> Path:
    """What `generate` and `distill` read, of a micro teacher."""
    from leanmotion.clips.sources import write_clips_of
    from leanmotion.cost.inspection import inspect_teacher
    from leanmotion.model.samplers import Samplers
    from leanmotion.model.student import Student
    from leanmotion.pipeline.records import write_record
    from leanmotion.pipeline.settings import load_settings
    from leanmotion.pipeline.tables import write_table
    from leanmotion.prompts.splits import prompt_rows

    folder = tmp_path_factory.mktemp("project")
    params = tiny_params(
        teacher_folder(levels=2, layers=1),
        prompts={"rank": 5},  # chunks of 2: three, the last of one clip
        distillation={"steps": 3, "batch": 4, "accumulate": 2, "checkpoint_every": 1, "validation": 1},
    )
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    settings = load_settings(folder / "params.yaml")
    write_table(folder / "prompts/rank.parquet", "prompts", prompt_rows(settings.prompts, "rank"))
    record, _ = inspect_teacher(settings)
    record.write(folder / "teacher.json")
    write_record(folder / "order.json", {"removed": BLOCKS[2:3]})
    Student(folder / "base", "base", record.sha256, ()).write()
    write_clips_of(settings, Samplers(settings, record), folder / "clips.parquet")
    return folder


def test_two_ranks_write_the_bytes_of_one_process_though_one_was_killed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two ranks has one of the two micro-batches of a step: a + b is b + a, so that not a bit may differ."""
    running = start("work", project)
    output, errors = running.communicate()
    assert running.returncode == 0, errors
    assert output.count("r1: 3 steps") == 1  # the main rank alone speaks
    drawn = [line.split() for line in (project / "drawn.log").read_text().splitlines()]
    # Rank 0 drew its two, rank 1 died over the third: that one alone was drawn again.
    assert [attempt for attempt, _ in drawn] == ["0", "0", "1"]
    assert len({address for _, address in drawn}) == 3
    videos, student = project / "rank_a.parquet", project / "r1"
    spread = {path: path.read_bytes() for path in [videos, *student.rglob("*")] if path.is_file()}
    assert len(spread) == 5  # videos, adapter and its config, losses, student.json
    monkeypatch.setenv("LEANMOTION_SCRATCH", str(tmp_path))
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    work(project)
    for path, content in spread.items():
        assert path.read_bytes() == content, path


def test_two_machines_and_an_error_of_one_rank_ends_all_in_one_line(tmp_path: Path) -> None:
    """`srun` in small: a launcher for each of two machines, which here are one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load(TWO.read_text()) | {
        "num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": port,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\n"$@" & "$@" & trap "kill %1 %2" TERM; wait; wait\n')
    srun.chmod(0o755)
    machines = {launch.CONFIG: str(tmp_path / "config.yaml"), "LEANMOTION_LAUNCHER": str(srun)}
    running = start("refuse", tmp_path, **machines)
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 2
    assert errors.strip().splitlines()[-1] == "error: sampling.steps is 0: choose more"
    assert errors.count("error: ") == 1 and "Traceback" not in errors, errors
    assert output in {"", "rank 0 says so\n"}
    assert len(list(tmp_path.glob("up-*"))) >= 1
    until(lambda: not ranks_up(tmp_path), 30)
    assert not list((tmp_path / "scratch/ranks").iterdir())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=str)
def test_no_rank_outlives_the_process_that_dvc_started(tmp_path: Path, sent: signal.Signals) -> None:
    """Ctrl-C ends it in order; killed, it can tell nobody."""
    running = start("wait", tmp_path)
    until(lambda: len(ranks_up(tmp_path)) == 2)
    family = psutil.Process(running.pid).children(recursive=True)
    assert len(family) == 3  # a launcher and two ranks
    running.send_signal(sent)
    _, errors = running.communicate(timeout=60)
    until(lambda: not any(process.is_running() for process in family), 30)
    if sent == signal.SIGINT:
        assert running.returncode == 130
        assert errors == "interrupted: finished work is kept, run again to go on\n"


def test_heavy_stages_and_no_others_are_spread() -> None:
    spread = {path.stem for path in STAGES.glob("*.py") if "stage.run(main, spread=True" in path.read_text()}
    assert spread == HEAVY


def test_without_a_config_or_with_one_process_nothing_is_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(launch.CONFIG, raising=False)
    assert launch.config() is None
    path = tmp_path / "one.yaml"
    path.write_text("{distributed_type: 'NO', num_processes: 1}")
    monkeypatch.setenv(launch.CONFIG, str(path))
    assert launch.config() is None


@pytest.mark.parametrize("name", ["accelerate-2cpu", "accelerate-8gpu", "accelerate-2x8gpu"])
def test_example_configs_are_such_as_accelerate_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = ROOT / f"configs/{name}.yaml"
    monkeypatch.setenv(launch.CONFIG, str(path))
    assert launch.config() == path
    read: Any = load_config_from_file(str(path))
    assert read.num_processes == {"accelerate-2cpu": 2, "accelerate-8gpu": 8, "accelerate-2x8gpu": 16}[name]
    assert read.num_machines == (2 if "2x" in name else 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("a: [", "not YAML"),
        ("distributed_type: MULTI_GPU", "num_processes is None"),
        ("{distributed_type: MULTI_GPU, num_processes: 3, num_machines: 2}", "no multiple of num_machines 2"),
        ("{distributed_type: FSDP, num_processes: 2}", "distributed_type is FSDP"),
        ("{distributed_type: MULTI_GPU, num_processes: 2, num_machines: 2}", "main_process_ip"),
    ],
)
def test_a_bad_config_is_refused(text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv(launch.CONFIG, str(path))
    with pytest.raises(LeanmotionError, match=f"^LEANMOTION_ACCELERATE_CONFIG: {path}.*{said}"):
        launch.config()
