"""The v2 motion module at its real size, with random weights, through every format, and the memory that it takes.

Writes the original file, inspects it, deletes 11 of 21 blocks, exports the three forms. Run: `python
benchmarks/real_size.py` (`--dtype float32` as `mm_sd_v15_v2.ckpt` is published, 9 GB of disk for a while).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from leanmotion.cost.macs import unet_macs
from leanmotion.model.original_format import load_adapter, write_original
from leanmotion.model.pruned_adapter import save_portable, save_pruned
from leanmotion.model.removal import remove_units
from leanmotion.model.units import block_ids, list_units, parameters
from leanmotion.pipeline.platforms import peak_memory
from leanmotion.pipeline.stage import quiet_libraries


def peak_gib() -> float:
    """Largest resident memory so far, mapped files and the imports of torch and diffusers included."""
    return peak_memory() / 2**30


def macs_per_block() -> dict[str, float]:
    """Block -> GMAC of a UNet call on one clip of 16 frames at 512 x 512, counted on tensors without storage."""
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        unet = UNetMotionModel(sample_size=64, cross_attention_dim=768)
    macs = unet_macs(unet, frames=16, height=64, width=64)
    return {block: macs[block] / 1e9 for block in block_ids(unet)}


def write_random(path: Path, dtype: torch.dtype) -> None:
    """A file with the keys and shapes of `mm_sd_v15_v2`."""
    from diffusers import MotionAdapter

    with torch.device("meta"):
        adapter: Any = MotionAdapter()
    adapter = adapter.to(dtype).to_empty(device="cpu")
    for value in adapter.state_dict().values():
        value.uniform_(-0.1, 0.1)
    write_original(adapter, path)


def main() -> None:
    """Print sizes, MACs, and time and peak memory after each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    arguments = parser.parse_args()
    quiet_libraries()
    started = time.perf_counter()

    def said(what: str) -> None:
        print(f"| {what} | {time.perf_counter() - started:.0f} | {peak_gib():.2f} |", flush=True)

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"| {arguments.dtype} | s since the start | peak memory so far, GiB |\n|---|---|---|")
        said("torch and diffusers imported")
        write_random(folder / "mm_sd_v15_v2.safetensors", getattr(torch, arguments.dtype))
        said("random weights made and written in original keys")
        adapter = load_adapter(folder / "mm_sd_v15_v2.safetensors")
        units = list_units(adapter, "temporal_transformer")
        whole = parameters(adapter)
        said(f"inspected: {len(units)} blocks, {whole:,} parameters")
        remove_units(adapter, [unit.id for unit in units][::2])
        said(f"pruned to {len(block_ids(adapter))} blocks, {parameters(adapter):,} parameters")
        save_pruned(adapter, folder / "pruned")
        said("pruned form")
        save_portable(adapter, folder / "portable")
        said("portable form")
        for suffix in (".safetensors", ".ckpt"):
            write_original(adapter, folder / f"student{suffix}")
            said(f"original keys, {suffix}")
    macs = macs_per_block()
    print("\n| channels | blocks | parameters, M | GMAC a block |\n|---|---|---|---|")
    for channels, depth in sorted({(unit.channels, unit.depth) for unit in units}):
        same = [unit for unit in units if (unit.channels, unit.depth) == (channels, depth)]
        giga = {round(macs[unit.id], 1) for unit in same}
        print(f"| {channels} at depth {depth} | {len(same)} | {same[0].parameters / 1e6:.2f} | {giga} |")
    if peak_gib() > 6:
        raise SystemExit("more than 6 GiB")


if __name__ == "__main__":
    main()
