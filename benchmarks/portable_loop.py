"""What the portable card's loop saves in stock diffusers, beside what `measure` says that the pruned form saves.

The code is the card's text, run as it stands in `data/export/portable/README.md`. UNet calls of the same pipeline as it
loads and after the loop, turn by turn, in one process; medians. Needs a finished flow, and idle cores: run from the
repo's root, `python benchmarks/portable_loop.py`. Exits with 1 where the two shares are more than 15% apart.
"""

from __future__ import annotations

import argparse
import copy
import re
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from leanmotion.cost.macs import unet_inputs
from leanmotion.model.sampler import latent_shape
from leanmotion.pipeline.records import read_record
from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.stage import quiet_libraries
from leanmotion.pipeline.tables import read_frame

EXPORT = Path("data/export/portable")
ALLOWED = 0.15


def pipelines() -> tuple[Any, Any]:
    """As it loads, and after the loop."""
    load, loop = re.findall(r"```python\n(.*?)```", (EXPORT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(load.replace('from_pretrained("portable")', f'from_pretrained("{EXPORT}")'), names)
    whole = names["pipe"]
    names["pipe"] = copy.deepcopy(whole)
    exec(loop, names)
    return whole, names["pipe"]


@torch.no_grad()
def main() -> None:
    """Time both, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=30)
    arguments = parser.parse_args()
    quiet_libraries()
    settings = load_settings()
    torch.set_num_threads(settings.sampling.threads)
    whole, skipping = pipelines()
    _, frames, height, width = latent_shape(whole, settings.sampling)
    tokens = whole.tokenizer.model_max_length
    inputs = unet_inputs(
        whole.unet, frames=frames, height=height, width=width, tokens=tokens, batch=settings.profile.batch
    )
    took: dict[str, list[float]] = {"whole": [], "skipping": []}
    for pair in range(arguments.pairs + 2):
        turns = [("whole", whole.unet), ("skipping", skipping.unet)]
        for name, unet in turns if pair % 2 else reversed(turns):
            start = time.perf_counter()
            unet(**inputs)
            if pair >= 2:  # the first calls warm up
                took[name].append(time.perf_counter() - start)
    ratios = [skip / full for full, skip in zip(took["whole"], took["skipping"], strict=True)]
    saved = 1 - statistics.median(ratios)
    chosen = read_record("data/selection.json", made_by="dvc repro select")["round"]
    measured = float(
        read_frame(Path("data/latency.parquet"), "latency").set_index("variant").loc[chosen, "saving_fraction"]
    )
    apart = abs(saved / measured - 1)
    for name, seconds in took.items():
        print(f"{name:>9}: {1000 * statistics.median(seconds):.1f} ms a call")
    print(f"the loop saves {saved:.1%} of a call, `measure` says {measured:.1%} for {chosen}: {apart:.0%} apart")
    if not apart <= ALLOWED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
