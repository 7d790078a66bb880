"""How a stage's script runs: one at a time, one line for an error, and gone when its `dvc repro` is gone."""

import _thread
import errno
import functools
import hashlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import typer
from filelock import FileLock, Timeout

from leanmotion.errors import LeanmotionError, shortened
from leanmotion.pipeline import durations, launch, processes
from leanmotion.pipeline.dvc import is_dvc
from leanmotion.pipeline.extra import needed
from leanmotion.pipeline.platforms import never_refuse_letters
from leanmotion.pipeline.scratch import scratch_folder

# As torch's compiler says it for CPUs, and Triton for GPUs.
_NO_COMPILER = ("No working C++ compiler found", "Failed to find C compiler")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def run(main: Callable[..., Any], *, spread: bool = False, float64: bool = False) -> None:
    """Run a stage's `main` as a Typer command.

    `spread`: on many processes, where the environment says so. `float64`: on no device that has none.

    Exit codes: 0 done; 2 a `LeanmotionError`, said in one line on stderr; 130 interrupted, finished work is kept.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded(main, spread=spread, float64=float64))
    app()


def guarded(
    main: Callable[..., Any], *, alone: bool = True, spread: bool = False, float64: bool = False
) -> Callable[..., Any]:
    """`main` with its errors said in one line.

    `alone`: under the lock of its very command. `spread`, `float64`: as in `run`.
    """

    @functools.wraps(main)
    def stage(*args: Any, **kwargs: Any) -> None:
        never_refuse_letters()
        quiet_libraries()
        try:
            if float64:
                processes.compute_in_float64(Path(sys.argv[0]).stem)
            if processes.is_rank():
                processes.join()
                main(*args, **kwargs)
                processes.leave()
                return
            with _alone() if alone else nullcontext(), durations.noted():
                _die_with_dvc()
                if spread and (config := launch.config()):
                    raise SystemExit(launch.launch(config, scratch_folder() / "ranks"))
                main(*args, **kwargs)
        except LeanmotionError as error:
            raise SystemExit(_said(str(error))) from None
        except KeyboardInterrupt:
            print("interrupted: finished work is kept, run again to go on", file=sys.stderr)
            raise SystemExit(130) from None
        except OSError as error:
            if error.filename is None and error.errno not in _NO_ROOM:
                raise
            place = error.filename or f"a file of {Path.cwd()}, or of the system's temporary folder"
            line = f"{place}: {error.strerror}: mend that (space, rights, name), then run again"
            raise SystemExit(_said(line)) from None
        except ModuleNotFoundError as error:
            words = [Path(sys.argv[0]).stem, *(word for word in sys.argv[1:2] if word[:1] != "-")]
            if (line := needed(error, " ".join(words))) is None:
                raise
            raise SystemExit(_said(line)) from None
        except MemoryError:
            line = "out of memory: lower sampling.chunk, distillation.batch or extractor.batch, or free some"
            raise SystemExit(_said(line)) from None
        except RuntimeError as error:
            if not any(words in str(error) for words in _NO_COMPILER):
                raise
            line = "sampling.torch_compile is true, and there is no compiler: install one (g++), or set it to false"
            raise SystemExit(_said(line)) from None

    return stage


def quiet_libraries() -> None:
    """Silence three known, harmless notices of transformers and torch, and no others."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # image processors: torchvision is not needed here
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", message=".*`torch.jit.load` is deprecated.*")


def _said(line: str) -> int:
    line = shortened(" ".join(line.split()))
    if processes.is_rank():
        processes.tell(line)  # all may have the same to say
    else:
        print(f"error: {line}", file=sys.stderr)
    return 2


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of this very command; the system frees it however the process ends."""
    folder = scratch_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join([str(Path(sys.argv[0]).resolve()), *sys.argv[1:], str(Path.cwd())])
    lock = FileLock(folder / f"{Path(sys.argv[0]).stem}-{hashlib.sha256(command.encode()).hexdigest()[:16]}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print("the same stage runs in another process: waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _die_with_dvc() -> None:
    """Stop when the `dvc` that started this stage is killed: else two of them would write side by side."""
    ancestors = psutil.Process().parents()
    level = next((i for i, p in enumerate(ancestors) if is_dvc(p)), None)
    if level is None:
        return
    watched = ancestors[: level + 1]

    def watch() -> None:
        while all(_runs(process) for process in watched):
            time.sleep(0.5)
        _thread.interrupt_main()
        time.sleep(5)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # gone between the two questions
        return False
