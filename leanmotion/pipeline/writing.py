"""Writing files whole or not at all: a temporary sibling, flushed to disk, then renamed; one clear line if it fails."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.platforms import rename, sync


def partial_of(path: Path) -> Path:
    """The sibling that this process fills before it gets the name `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def sweep_partials(path: Path) -> None:
    """Remove what writers of this file left that were killed; a live writer's partial file stays."""
    for partial in path.parent.glob(f".{_plain(path.name)}.*.partial"):
        with suppress(FileNotFoundError):  # another process sweeps too
            if not _has_writer(partial):
                _remove(partial)


def commit(partial: Path, path: Path) -> None:
    """Flush a closed partial file to disk, then give it its name."""
    sync(partial)
    rename(partial, path)
    sync(path.parent)


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a partial path to fill, with a file or a folder; after the block it is flushed and renamed, or removed.

    Of a folder only the list of names is flushed, and what stands under `path` has to be gone by the block's end.

    Raises:
        LeanmotionError: It cannot be written; what stood under `path` is untouched.
    """
    path = Path(path)
    partial = partial_of(path)
    with saying_unwritable(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep_partials(path)
            yield partial
            commit(partial, path)
        finally:
            with suppress(OSError):  # said already, or renamed
                _remove(partial)


def write_text(path: str | Path, text: str) -> None:
    """Write a small text or JSON file atomically and flush it to disk: the same bytes on every system."""
    with whole(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def saying_unwritable(path: Path) -> Iterator[None]:
    """Turn what a full disk or missing rights raise while writing `path` into one line that names it.

    safetensors raises an error class of its own, torch a bare RuntimeError.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise unwritable(path, error.strerror or str(error)) from error
    except (SafetensorError, RuntimeError) as error:
        # torch: "unexpected pos 64 vs 0", or a failed write; after an OSError that it has swallowed or not.
        words = ("write", "PytorchStreamWriter", "inline_container")
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in words):
            raise
        cause = error.__context__
        raise unwritable(path, cause.strerror or cause if isinstance(cause, OSError) else error) from error


def unwritable(path: Path, problem: object) -> LeanmotionError:
    """The line for a file that cannot be written."""
    line = " ".join(str(problem).split())[:160]
    return LeanmotionError(f"{path}: cannot be written ({line}): free space or mend its rights, then go on")


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink()


def _has_writer(partial: Path) -> bool:
    """Whether the process that a partial file is named after lives, and was there when the file was written."""
    number = partial.name.split(".")[-2]
    if not number.isdigit():
        return False
    try:
        # A number that came again belongs to a process younger than the file: two seconds for coarse clocks.
        return psutil.Process(int(number)).create_time() < partial.stat().st_mtime + 2
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def _plain(name: str) -> str:
    """A file's name with what `glob` would read as a pattern escaped."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
