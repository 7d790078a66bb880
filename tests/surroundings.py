"""The surroundings that tests see: the same from every shell, whatever it exports for its user's own work."""

import os
import tempfile
from collections.abc import MutableMapping

FOR_TESTS = {
    "LEANMOTION_CHROMIUM", "LEANMOTION_FAULTS", "LEANMOTION_I3D", "LEANMOTION_SLOW", "LEANMOTION_TEST_COMPILER",
    "LEANMOTION_TEST_LOW_PRECISION", "LEANMOTION_TEST_THREADS",
}  # fmt: skip
"""What is said to the tests themselves."""

_TAKEN_AWAY = {
    # leanmotion's own: where its scratch lies, on what and on how many processes it runs.
    "LEANMOTION_", "ACCELERATE_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    # Of a hook that git runs, and of users of DVC.
    "GIT_", "DVC_",
    # What terminals are taken for: typer and rich colour words in the middle.
    "FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "COLUMNS", "LINES", "TERMINAL_WIDTH",
}  # fmt: skip

_EMPTY = tempfile.TemporaryDirectory(prefix="leanmotion-no-config-")
_SCRATCH = tempfile.TemporaryDirectory(prefix="leanmotion-tests-scratch-")


def settle(environment: MutableMapping[str, str]) -> None:
    """Take away what would reach the tests, and give them a CPU, a scratch folder, and git and DVC as installed."""
    for name in list(environment):
        if name not in FOR_TESTS and any(name == taken or _in(name, taken) for taken in _TAKEN_AWAY):
            del environment[name]
    environment.update({
        "LEANMOTION_DEVICE": "cpu",
        # Else that of the folder where tests are started: its user's own, with what other code has left there.
        "LEANMOTION_SCRATCH": _SCRATCH.name,
        "NO_COLOR": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_GLOBAL_CONFIG_DIR": _EMPTY.name,
        "DVC_SYSTEM_CONFIG_DIR": _EMPTY.name,
        "DVC_NO_ANALYTICS": "1",
    })  # fmt: skip


def _in(name: str, family: str) -> bool:
    return family.endswith("_") and name.startswith(family)
