"""Where the chunk store, checkpoints and locks live."""

import os
from pathlib import Path


def scratch_folder() -> Path:
    """Where the store, checkpoints and locks live: `$LEANMOTION_SCRATCH`, or `.scratch` here. Safe to delete."""
    return Path(os.environ.get("LEANMOTION_SCRATCH", ".scratch"))
