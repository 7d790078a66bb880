"""Tests that run on every system, and what in a Python file only some systems have, found in its text."""

import ast
from collections.abc import Iterator
from pathlib import Path

LIGHT = (
    "cost/test_cost.py", "distillation/test_losses.py", "evaluation/test_selection.py", "export/test_lean.py",
    "features/test_extractors.py", "model/test_adapter_files.py", "model/test_pruned_adapter.py",
    "model/test_pruned_pipeline.py", "model/test_removal.py", "model/test_sampler.py", "model/test_units.py",
    "model/test_weights.py", "pipeline/test_here.py", "pipeline/test_mps.py", "pipeline/test_settings.py",
    "pipeline/test_terminal.py", "probing/test_similarity.py", "prompts/test_splits.py", "ranking/test_fvd.py",
    "ranking/test_ranking.py", "test_errors.py", "test_flow.py", "test_package.py", "videos/test_codec.py",
)  # fmt: skip
"""Files that run on Linux, macOS and Windows: loading, drawing, reading and writing, the wheel. `pytest -m light`."""


def others_than_light(tests: Path) -> set[str]:
    """All other files of tests, as pytest wants them in `collect_ignore`."""
    return {path.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")} - {*LIGHT}


_MODULES = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "msvcrt", "winreg", "winsound"}
_OF_OS = {
    "chown", "confstr", "eventfd", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getgroups",
    "getloadavg", "getpgid", "getpgrp", "getpriority", "getsid", "getuid", "killpg", "lchown", "mkfifo", "mknod",
    "nice", "openpty", "pathconf", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "pwrite",
    "register_at_fork", "sched_getaffinity", "sched_setaffinity", "sendfile", "setegid", "seteuid", "setgid", "setpgid",
    "setpgrp", "setpriority", "setsid", "setuid", "startfile", "statvfs", "symlink", "sync", "sysconf", "uname", "wait",
    "wait3", "wait4", "waitid", "waitpid", "O_BINARY", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC",
    # To ask for the system, and to build paths by hand.
    "linesep", "name", "sep",
}  # fmt: skip
_OF_SIGNAL = {
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1",
    "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
}  # fmt: skip
_OF_PROCESSES = {"shell", "preexec_fn", "start_new_session", "process_group", "pass_fds", "creationflags"}
_OTHERS = {("sys", "platform"), ("sys", "getwindowsversion"), ("platform", "system")}
_PATHS = ("/dev/", "/proc/", "/tmp", "/bin/", "/usr/", "/etc/", "/home/")


def of_one_system(path: Path) -> Iterator[str]:
    """Each thing in the file that only Linux, macOS or Windows has, or that asks which of them it is, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for found in _of_one_system(node):
            yield f"{path.name}:{getattr(node, 'lineno', 0)} {found}"


def without_encoding(path: Path) -> Iterator[str]:
    """Each text that the file reads or writes in the system's own code page, or with its line ends."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg for keyword in node.keywords}
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        where = f"{path.name}:{node.lineno} {name}"
        opened = name == "open" and _is_text(node)
        process = name in {"run", "Popen", "check_output"} and {"text", "universal_newlines"} & given
        if ((method and name in {"read_text", "write_text"}) or opened or process) and "encoding" not in given:
            yield f"{where} without encoding"
        if ((method and name == "write_text") or (opened and "w" in _mode(node))) and "newline" not in given:
            yield f"{where} with the system's line ends"


def _of_one_system(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from {alias.name for alias in node.names} & _MODULES
    elif isinstance(node, ast.ImportFrom):
        yield from {node.module or ""} & _MODULES
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = node.value.id
        if (owner, node.attr) in _OTHERS or node.attr in {"os": _OF_OS, "signal": _OF_SIGNAL}.get(owner, ()):
            yield f"{owner}.{node.attr}"
    elif isinstance(node, ast.Call):
        yield from {keyword.arg for keyword in node.keywords if keyword.arg} & _OF_PROCESSES
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(_PATHS):
        yield node.value


def _mode(call: ast.Call) -> str:
    """Of `open(path, mode)` and `path.open(mode)`; `av.open` and `Image.open` are no text."""
    place = 0 if isinstance(call.func, ast.Attribute) else 1
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or call.args[place : place + 1]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "r"


def _is_text(call: ast.Call) -> bool:
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    other = isinstance(owner, ast.Name) and owner.id in {"av", "os", "Image"}
    return not other and "b" not in _mode(call)
