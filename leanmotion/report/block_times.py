"""What blocks save of a call's time, so that they can be added up to sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def time_shares(profile: Any, blocks: Sequence[str]) -> Float[np.ndarray, " blocks"]:
    """Share of a call that each block saves; all of them together save what a call without any of them does.

    A block's time inside the call leaves out what the block does to its neighbours, so that sets save more than their
    blocks' times add up to. The factor that makes this up for all blocks is given to each (docs/method.md).

    Args:
        profile: artefact `profile`, by its variants.
        blocks: block ids.
    """
    shares = profile["saving_fraction"]
    added, whole = (float(shares.loc[names].sum()) for names in (_singles(profile), ["none"]))
    factor = whole / added if whole > 0 and added > 0 else 1.0
    return shares.loc[list(blocks)].to_numpy(np.float64) * factor


def _singles(profile: Any) -> list[str]:
    return [name for name in profile.index if name not in ("full", "watched", "none")]
