"""The real DVC and the real scripts in processes of their own, without the minutes that their imports take.

A stage imports torch, diffusers and transformers for seven seconds of a core, to do the work of a micro project in one.
Here a process imports them once (`MODULES`) and then forks: each command has its own memory, folder, environment and
`__main__`, is killed like any other and ends with its code. A `dvc` has its stages forked likewise, below a process
that stands for the shell. leanmotion is imported by each command from where it runs. What a test holds of imports, or
of how an interpreter starts, it holds of a real one; so does all where there is no fork to be had.
"""

import atexit
import copy
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from dvc.utils import strictyaml
from dvc.utils.serialize import _yaml

MODULES = (
    "accelerate", "av", "diffusers.pipelines.animatediff.pipeline_animatediff", "dvc.cli", "dvc.commands.repro",
    "dvc.commands.status", "dvc.repo", "dvc.stage.run", "dvc_data.index", "filelock", "jaxtyping", "jinja2",
    "matplotlib.pyplot", "pandas", "PIL.Image", "psutil", "pyarrow.parquet", "pydantic", "rich.table", "scipy.linalg",
    "scipy.stats", "torch", "tqdm", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip", "typer", "yaml",
)  # fmt: skip
FORKS = sys.platform == "linux"
_ROOM = 4000  # bytes of a command line
_PARSE, _PARSED = _yaml.parse_yaml, dict[Any, Any]()


def run(
    words: Sequence[str], cwd: Path, env: Mapping[str, str], *, apart: bool = False
) -> subprocess.CompletedProcess[str]:
    """`python` with these words (a script, `-m` and a module, `-c` and code), as `subprocess.run` would run it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = start(words, cwd, env, out, err, apart=apart).wait()
        said = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    return subprocess.CompletedProcess([sys.executable, *words], code, *said)


def start(
    words: Sequence[str], cwd: Path, env: Mapping[str, str], out: IO[bytes], err: IO[bytes], *, apart: bool = False
) -> "Running | subprocess.Popen[bytes]":
    """The same, as `Popen` would start it. `apart`: a session of its own, whose command line others can read.

    A stage knows the `dvc` that runs it by that line: it dies with it, and draws ahead as far as it covers.
    """
    if FORKS:
        return _server().start(words, str(cwd), dict(env), (out.fileno(), err.fileno()), apart)
    command = [sys.executable, *words]
    return subprocess.Popen(command, cwd=cwd, env=dict(env), stdout=out, stderr=err, start_new_session=apart)


class Running:
    """A command that was forked."""

    def __init__(self, said: socket.socket) -> None:
        self.said = said
        self.pid = _number(said)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its code if it has ended, negative as of `Popen` for a signal."""
        return self.wait() if self.returncode is not None or select.select([self.said], [], [], 0)[0] else None

    def wait(self) -> int:
        """Its code, when it has ended; where the wait is given up, it is killed."""
        if self.returncode is None:
            try:
                self.returncode = _number(self.said)
            except BaseException:
                self.send_signal(signal.SIGKILL)
                raise
            self.said.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Forker:
    """The near end of a process that forks what it is asked for."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near

    def start(
        self, words: Sequence[str], cwd: str, env: dict[str, str], outputs: tuple[int, int], apart: bool
    ) -> Running:
        said, told = socket.socketpair()
        with told:
            asked = json.dumps({"words": list(words), "cwd": cwd, "env": env, "apart": apart}).encode()
            socket.send_fds(self.near, [len(asked).to_bytes(4, "big")], [*outputs, told.fileno()])
            self.near.sendall(asked)
        return Running(said)


@functools.cache
def _server() -> Forker:
    near, far = socket.socketpair()
    # One thread: no thread of a pool would live on in a fork.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ""}
    env |= {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}  # as stages set them before they import
    command = [sys.executable, __file__, str(far.fileno()), "-" * _ROOM]
    subprocess.Popen(command, env=env, pass_fds=[far.fileno()])
    far.close()
    return Forker(near)


def serve(far: socket.socket) -> Sequence[str] | None:
    """Fork as asked until the near end is gone; in a forked command return what it is to run."""
    while True:
        try:
            head, handles, _, _ = socket.recv_fds(far, 4, 3)
            asked = json.loads(_exactly(far, int.from_bytes(head + _exactly(far, 4 - len(head)), "big")))
        except EOFError:
            return None
        if os.fork() == 0:
            far.close()
            told = socket.socket(fileno=handles.pop())
            _wait_for_a_child(told)
            told.close()
            _settle(asked, handles)
            return asked["words"]
        for handle in handles:
            os.close(handle)
        _reap()


def _wait_for_a_child(told: socket.socket) -> None:
    """Fork: the parent tells of its child and ends with it, the child goes on."""
    if (child := os.fork()) == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        _tell(told, child)
        _tell(told, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _settle(asked: dict[str, Any], outputs: Sequence[int]) -> None:
    """Stand where the command is to run, with its environment and outputs."""
    for place, handle in enumerate(outputs, start=1):
        os.dup2(handle, place)
        os.close(handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    tempfile.tempdir = None  # by the environment of before
    if asked["apart"]:
        os.setsid()
        show(["python", *asked["words"]])


def show(words: Sequence[str]) -> None:
    """Have others read these words as this process's command line, which was `_ROOM` bytes longer."""
    said = " ".join(words).encode()
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    assert len(said) < end - start - 1, "a longer command line than there is room for"
    # Without a zero at its very end, Linux reads it up to the first one.
    ctypes.memmove(start, said + b"\0" + b"-" * (end - start - len(said) - 1), end - start)


def become(words: Sequence[str]) -> None:
    """Run what `python` with these words would, in this process."""
    installed = [place for place in sys.path if place not in {str(Path(__file__).parent), ""}]
    named = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    kind, *rest = words
    first = {"-m": Path.cwd(), "-c": ""}.get(kind) if kind.startswith("-") else str(Path(kind).resolve().parent)
    sys.path[:] = [str(first), *named, *installed]
    if kind == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv[:] = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


def end(words: Sequence[str]) -> NoReturn:
    """Run it and end as an interpreter does, but for taking all modules apart: four seconds of a core in a fork."""
    code: Any = 0
    try:
        become(words)
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def fork_stages(apart: bool) -> None:
    """Have this process's `dvc` get its stages from a process below it, as clean as this one is now."""
    from dvc.stage import run as dvc_run
    from dvc.stage.exceptions import StageCmdFailedError

    near, far = socket.socketpair()
    if (shell := os.fork()) == 0:
        near.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if apart:
            show(["sh"])
        if (words := serve(far)) is None:
            os._exit(0)
        if apart:
            show(["python", *words])
        end(words)
    far.close()

    def leave() -> None:
        near.close()
        os.waitpid(shell, 0)

    atexit.register(leave)
    forker, plain = Forker(near), dvc_run._run

    def run(executable: str | None, cmd: str, **how: Any) -> None:
        words = shlex.split(cmd)
        if words[0] != "python":
            return plain(executable, cmd, **how)
        sys.stdout.flush()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            code = forker.start(words[1:], str(how["cwd"]), dict(how["env"]), (1, 2), apart=False).wait()
        finally:
            signal.signal(signal.SIGINT, before)
        if code:
            raise StageCmdFailedError(cmd, code)

    dvc_run._run = run
    strictyaml.parse_yaml = _yaml.parse_yaml = parse_once


def parse_once(text: str, *words: Any, **more: Any) -> Any:
    """DVC parses params.yaml anew for every stage, in pure Python: most of the time that a status takes."""
    key = (text, words, *more.items())
    if key not in _PARSED:
        _PARSED[key] = _PARSE(text, *words, **more)
    return copy.deepcopy(_PARSED[key])


def _number(end: socket.socket) -> int:
    return int.from_bytes(_exactly(end, 4), "big", signed=True)


def _tell(end: socket.socket, number: int) -> None:
    end.sendall(number.to_bytes(4, "big", signed=True))


def _exactly(end: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        if not (more := end.recv(count - len(read))):
            raise EOFError
        read += more
    return read


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # else a collection in a fork would touch, and so copy, all of them
    words = serve(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        if list(words[:2]) == ["-m", "dvc"]:
            fork_stages(apart=os.getsid(0) == os.getpid())
        end(words)


if __name__ == "__main__":
    main()
