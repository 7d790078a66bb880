"""The same stage on many processes, by a local Accelerate config that no result depends on.

Where `$LEANMOTION_ACCELERATE_CONFIG` names one, the process that DVC started keeps the stage's lock and runs its own
script and arguments again under `accelerate launch`, as ranks (`leanmotion.pipeline.processes`). torchrun starts all
ranks again when one is killed; chunks and checkpoints are still there. Each link of the chain DVC, stage, launcher,
ranks ends when the one before it is gone.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.platforms import own_group
from leanmotion.pipeline.processes import SESSION, when_orphaned

CONFIG = "LEANMOTION_ACCELERATE_CONFIG"
_KINDS = {"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_MUSA"}
_POLL_SECONDS, _GRACE_SECONDS = 0.1, 4.0


def config() -> Path | None:
    """The Accelerate config of the environment, checked; None where there is none or it asks for one process.

    Raises:
        LeanmotionError: Missing, not YAML, or of a kind that divides models, not work.
    """
    if not (named := os.environ.get(CONFIG)):
        return None
    return Path(named) if _read(Path(named))["num_processes"] > 1 else None


def launch(config: Path, folder: Path) -> int:
    """Run this very command as ranks, pass on what they say, and return the exit code.

    Args:
        config: An Accelerate config.
        folder: Where ranks leave what they say; for several machines a folder that all of them see.

    Raises:
        LeanmotionError: What the first rank that raised one said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stage = Path(sys.argv[0]).stem
    with tempfile.TemporaryDirectory(prefix=f"{stage}-", dir=folder, ignore_cleanup_errors=True) as session:
        with (Path(session) / "launcher.log").open("wb") as log:
            # For several machines `srun --ntasks-per-node=1` or the like starts a launcher on each.
            command = [
                *os.environ.get("LEANMOTION_LAUNCHER", "").split(),
                sys.executable,
                "-m",
                "leanmotion.pipeline.launch",
            ]
            launcher: subprocess.Popen[bytes] = subprocess.Popen(  # pyright: ignore[reportAssignmentType]
                [*command, *sys.argv], env=_environment(config, Path(session)), stdin=subprocess.DEVNULL, stderr=log,
                **own_group(),
            )  # fmt: skip
        with _ended(launcher):
            code = _listen(launcher, Path(session))
        if code:
            words = (Path(session) / "launcher.log").read_text(encoding="utf-8", errors="replace").splitlines()
            print(*words[-30:], sep="\n", file=sys.stderr)
            print(f"the ranks failed (exit code {code}): finished work is kept, run again to go on", file=sys.stderr)
    return code


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LeanmotionError(f"{CONFIG}: {path}: {error.strerror}: name an Accelerate config, or unset it") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise LeanmotionError(f"{CONFIG}: {path}: not YAML: `accelerate config --config_file {path}`") from None
    said = raw if isinstance(raw, dict) else {}
    processes, machines = said.get("num_processes"), said.get("num_machines", 1)
    if not (isinstance(processes, int) and isinstance(machines, int) and processes >= 1 and machines >= 1):
        raise LeanmotionError(
            f"{CONFIG}: {path}: num_processes is {processes!r}: say how many, on all machines together"
        )
    if processes % machines:
        raise LeanmotionError(f"{CONFIG}: {path}: num_processes {processes} is no multiple of num_machines {machines}")
    if (kind := said.get("distributed_type", "NO")) not in _KINDS:
        raise LeanmotionError(f"{CONFIG}: {path}: distributed_type is {kind}: say MULTI_GPU, or MULTI_CPU with use_cpu")
    if machines > 1 and not (said.get("main_process_ip") and said.get("main_process_port")):
        raise LeanmotionError(f"{CONFIG}: {path}: {machines} machines need main_process_ip and main_process_port")
    return {**said, "num_processes": processes, "num_machines": machines}


def _environment(config: Path, session: Path) -> dict[str, str]:
    ours = {SESSION: str(session.resolve()), CONFIG: str(config.resolve()), "PYTHONUNBUFFERED": "1"}
    if _read(config).get("use_cpu"):
        ours |= {"ACCELERATE_USE_CPU": "true", "LEANMOTION_DEVICE": "cpu"}
    # torchrun would set 1 and warn; stages set their threads by params.yaml.
    return {"OMP_NUM_THREADS": "1", **os.environ, **ours}


def _listen(launcher: subprocess.Popen[bytes], session: Path) -> int:
    """Pass on what ranks say until the launcher ends, or one of them says what ends the stage."""
    heard: dict[Path, int] = {}
    while True:
        ended = launcher.poll() is not None
        for log in sorted(session.glob("rank-*.log")):
            with log.open("rb") as file:
                file.seek(heard.get(log, 0))
                sys.stderr.write(file.read().decode(errors="replace"))
                heard[log] = file.tell()
        sys.stderr.flush()
        for said in sorted(session.glob("error-*[0-9]")):
            raise LeanmotionError(said.read_text(encoding="utf-8"))
        if ended:
            return _shown(launcher.returncode)
        time.sleep(_POLL_SECONDS)


@contextmanager
def _ended(launcher: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens inside, no launcher is left: asked to, it ends its ranks; orphaned ranks end themselves."""
    try:
        yield
    finally:
        launcher.terminate()
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(_GRACE_SECONDS)
        launcher.kill()
        launcher.wait()


def _shown(code: int) -> int:
    """An exit code as shells show it: 128 and the signal's number for a process that a signal ended."""
    return code if code >= 0 else 128 - code


def _start(script: Sequence[str]) -> int:
    """One machine's launcher: torchrun with the config's ranks, by way of Accelerate."""
    when_orphaned(lambda: os.kill(os.getpid(), signal.SIGTERM))
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    said = _read(Path(os.environ[CONFIG]))
    # In so many words: asked for ranks on CPU, Accelerate itself starts them through MPI only.
    options = ["--config_file", os.environ[CONFIG], "--multi_gpu"]
    options += ["--max_restarts", os.environ.get("LEANMOTION_MAX_RESTARTS", "3")]
    # Any free port on one machine. Several number themselves when they meet; on number 0 Accelerate would refuse the
    # address once another's launcher listens there.
    options += ["--main_process_port", "0"] if said["num_machines"] == 1 else ["--machine_rank", "1"]
    asked = launch_command_parser().parse_args([*options, *script])
    # torchrun's static rendezvous cannot start ranks again: they would read the addresses of those that died. So can
    # the dynamic one only with a store of its own for each start.
    asked.standalone, asked.same_network = said["num_machines"] == 1, False
    asked.rdzv_backend, asked.rdzv_id = "c10d", Path(os.environ[SESSION]).name
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        launch_command(asked)
    except ChildFailedError as error:
        return _shown(error.get_first_failure()[1].exitcode)
    return 0


if __name__ == "__main__":
    raise SystemExit(_start(sys.argv[1:]))
