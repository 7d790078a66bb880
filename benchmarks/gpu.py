"""Where a GPU's time goes at real size: one command, no network, random weights of SD 1.5 and AnimateDiff v2.

`python benchmarks/gpu.py` on a CUDA machine prints a table (`--out table.md`). `--parts calls,compiled` runs these,
`--seconds 300` starts none after so long. Without CUDA, or with `--small`, all is of small widths: a trial of the
script, whose figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import numpy as np
import torch
import yaml
from kernels import milliseconds_by_kind
from random_teacher import write_teacher
from sampling import stock
from training_step import training_rows

from leanmotion.cost.latency import latency_rows
from leanmotion.cost.macs import unet_inputs, unet_macs
from leanmotion.model.compiling import compile_modules
from leanmotion.model.removal import without_units
from leanmotion.model.requests import Request, Variant
from leanmotion.model.sampler import Sampler, latent_shape, make_scheduler
from leanmotion.model.teacher import load_pipeline
from leanmotion.model.units import block_ids
from leanmotion.pipeline.processes import device
from leanmotion.pipeline.settings import Sampling, Settings
from leanmotion.pipeline.stage import quiet_libraries
from leanmotion.videos.store import ChunkStore, cut

Rows = Iterator[tuple[str, float, str]]
"""What, how much, of which unit."""

PRESET = Path(__file__).parents[1] / "presets/animatediff-v1-5-2.yaml"


class Size(TypedDict):
    """Of a clip's latents."""

    frames: int
    height: int
    width: int


class Bench:
    """The preset's settings on a random teacher."""

    def __init__(self, folder: Path, *, small: bool) -> None:
        self.folder, self.small, self.device = folder, small, device()
        self.on_gpu = self.device.startswith("cuda")
        params = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        places = write_teacher(folder, self.dtype, self.device, small=small)
        # As stock diffusers normalises, which is what we are compared with.
        params["teacher"] |= {**places, "dtype": str(self.dtype).removeprefix("torch."), "motion_norm": "clip"}
        if small:
            params["sampling"] |= {"frames": 2, "height": 64, "width": 64, "chunk": 2, "steps": 2, "threads": 1}
            params["distillation"] |= {"precision": "fp32"}
        params["profile"] |= {"rounds": 3 if small else 5, "warmup": 1, "batch": 1 if small else 2}
        self.settings = Settings.model_validate(params)

    @cached_property
    def pipeline(self) -> Any:
        """The teacher's pipeline on the device."""
        made: Any = load_pipeline(self.settings.teacher)
        made.set_progress_bar_config(disable=True)
        for part in (made.unet, made.vae, made.text_encoder):
            part.eval().requires_grad_(False)
        return made.to(self.device)

    def sampling(self, **changes: Any) -> Sampling:
        """The preset's, changed."""
        return self.settings.sampling.model_copy(update=changes)

    @cached_property
    def size(self) -> Size:
        """Of a clip's latents."""
        _, frames, height, width = latent_shape(self.pipeline, self.settings.sampling)
        return Size(frames=frames, height=height, width=width)

    @cached_property
    def flops(self) -> float:
        """Of a UNet call on a clip."""
        return 2 * unet_macs(self.pipeline.unet, **self.size)["total"]

    def inputs(self, batch: int) -> dict[str, torch.Tensor]:
        """Of a UNet call."""
        return unet_inputs(self.pipeline.unet, **self.size, batch=batch, device=self.device)

    @torch.inference_mode()
    def call(self, batch: int) -> torch.Tensor:
        """A UNet call's output."""
        return self.pipeline.unet(**self.inputs(batch), return_dict=False)[0]

    def seconds(self, work: Callable[[], Any], repeats: int = 5, warm: int = 2) -> float:
        """Median of repeats."""
        took: list[float] = []
        for i in range((1 if self.small else warm) + (1 if self.small else repeats)):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            took += [time.perf_counter() - start] if i >= (1 if self.small else warm) else []
        return float(np.median(took))

    def wait(self) -> None:
        """Until the GPU has done what it was asked."""
        if self.on_gpu:
            torch.cuda.synchronize()

    @cached_property
    def rate(self) -> float:
        """Floating-point operations a second in a large matrix product."""
        n = 256 if self.small else 8192
        a, b = torch.randn(2, n, n, device=self.device).to(self.dtype)
        return 2 * n**3 / self.seconds(lambda: a @ b, 10, 3)

    @property
    def samplings(self) -> list[Sampling]:
        """What is compared with the stock pipeline."""
        steps = (2,) if self.small else (4, 25)
        return [self.sampling(steps=count, scheduler="ddim", chunk=2 if self.small else 4) for count in steps]

    @cached_property
    def stock(self) -> dict[int, tuple[float, np.ndarray]]:
        """Of the stock pipeline, by steps: seconds a clip, and the first clip. Ask before anything is compiled."""
        found = {}
        for how in self.samplings:
            asked = self.requests(1)
            self.pipeline.scheduler = make_scheduler(self.pipeline.scheduler, "ddim")
            shape = latent_shape(self.pipeline, how)
            noise = torch.randn((1, *shape), generator=torch.Generator().manual_seed(asked[0].seed)).to(self.dtype)

            def loop(how: Sampling = how, asked: list[Request] = asked, noise: torch.Tensor = noise) -> np.ndarray:
                return stock(self.pipeline, asked, how, 1, noise.to(self.device))

            found[how.steps] = self.seconds(loop, 2, 1), loop()[0]
        return found

    def requests(self, count: int) -> list[Request]:
        """Clips to draw."""
        return [Request(f"a photo of thing {i}", "bad quality", 100 + i) for i in range(count)]


def rate(bench: Bench) -> Rows:
    """What the card can do."""
    yield "matrix product", bench.rate / 1e12, "TFLOP/s"


def calls(bench: Bench) -> Rows:
    """UNet calls, and their share of that rate."""
    for batch in (1, 2) if bench.small else (1, 2, 4, 8):
        inputs = bench.inputs(batch)
        with torch.inference_mode():
            took = bench.seconds(lambda inputs=inputs: bench.pipeline.unet(**inputs, return_dict=False)) / batch
        yield f"UNet call at batch {batch}", 1e3 * took, "ms a clip"
        yield f"of the matrix rate, batch {batch}", 100 * bench.flops / took / bench.rate, "%"


def kernels(bench: Bench) -> Rows:
    """Time by kind of kernel."""
    for kind, took in milliseconds_by_kind(lambda: bench.call(2), gpu=bench.on_gpu).items():
        yield f"in a call at batch 2: {kind}", took, "ms"


def blocks(bench: Bench) -> Rows:
    """Time of each motion block inside the call, and what is left without any."""
    for row in latency_rows(bench.pipeline, bench.settings):
        yield f"saved without: {row['variant']}", 1e3 * row["saving"], "ms"


def against_stock(bench: Bench) -> Rows:
    """Sampling, beside the stock pipeline at a prompt a time; pictures from the same noise."""
    for how in bench.samplings:
        sampler, asked = Sampler(bench.pipeline, how, bench.device), bench.requests(how.chunk)
        ours = bench.seconds(lambda s=sampler, a=asked: s(a), 2, 1) / how.chunk
        theirs, pictures = bench.stock[how.steps]
        yield f"sampling, {how.steps} steps with guidance", ours, "s a clip"
        yield f"stock pipeline, {how.steps} steps, one at a time", theirs, "s a clip"
        yield f"faster by, {how.steps} steps", theirs / ours, "times"
        levels = 255 * np.abs(pictures - sampler.pictures(asked)[0].float().cpu().numpy())
        yield f"grey levels apart on average, {how.steps} steps", float(levels.mean()), "of 255"


def idle(bench: Bench) -> Rows:
    """Encoding beside drawing: the share of the time in which nothing is drawn."""
    how = bench.sampling(steps=2 if bench.small else 4, chunk=2 if bench.small else 4)
    sampler, drawn = Sampler(bench.pipeline, how, bench.device), [0.0]

    def draw(requests: Any) -> np.ndarray:
        start = time.perf_counter()
        clips = sampler(requests)  # ends with the bytes on the CPU
        drawn[0] += time.perf_counter() - start
        return clips

    sampler(bench.requests(how.chunk))
    chunks = cut(Variant("0" * 64), bench.requests(how.chunk * (2 if bench.small else 8)), how)
    start = time.perf_counter()
    for _ in ChunkStore(bench.folder / "chunks").fill(chunks, draw):
        pass
    yield f"not drawing, {how.steps} steps", 100 * (1 - drawn[0] / (time.perf_counter() - start)), "% of the time"


def training(bench: Bench) -> Rows:
    """A step of distillation and its memory, activations kept or recomputed, and its checkpoint."""
    yield from training_rows(bench.pipeline.unet, bench.size, bench.settings, bench.device, bench.folder, bench.seconds)


def compiled(bench: Bench) -> Rows:
    """Whole modules compiled. Last: they stay so."""
    batch = 2 if bench.small else 4
    plain = bench.call(batch)
    _ = bench.stock  # of the pipeline as it is stock: once compiled, it would be compared with itself
    compile_modules(bench.pipeline.unet)
    start = time.perf_counter()
    found = bench.call(batch)
    bench.wait()
    yield "compiled: first call", time.perf_counter() - start, "s"
    yield "compiled: largest difference", float((found - plain).abs().max() / plain.abs().max()), "of the output"
    yield from ((f"compiled: {what}", value, unit) for what, value, unit in calls(bench))
    start = time.perf_counter()
    with without_units(bench.pipeline.unet, block_ids(bench.pipeline.unet)[:1]):
        bench.call(batch)
        bench.wait()
    yield "compiled: first call after a removal", time.perf_counter() - start, "s"
    yield from ((f"compiled: {what}", value, unit) for what, value, unit in kernels(bench))
    yield from ((f"compiled: {what}", value, unit) for what, value, unit in against_stock(bench))


PARTS = {
    part.__name__: part for part in (rate, calls, kernels, blocks, against_stock, idle, training, compiled)
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of the default, comma between")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no part starts after these")
    parser.add_argument("--small", action="store_true", help="small widths; always without CUDA")
    parser.add_argument("--out", type=Path, help="a file for the table, written part by part")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.parts.split(",")) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}")
    if "compiled" in asked.parts.split(",")[:-1]:
        parser.error("compiled is the last part: what comes after it would be compiled, too")
    quiet_libraries()
    started, small = time.perf_counter(), asked.small or not device().startswith("cuda")
    name = torch.cuda.get_device_name() if device().startswith("cuda") else "CPU"
    lines = [f"{name}, torch {torch.__version__}, {'small widths' if small else 'real size'}, random weights", ""]
    lines += ["| what | | |", "| --- | ---: | --- |"]
    print("\n".join(lines), flush=True)
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), small=small)
        for part in asked.parts.split(","):
            if time.perf_counter() - started > asked.seconds:
                print(f"| {part}: no time left | | |", flush=True)
                continue
            for what, value, unit in PARTS[part](bench):
                lines.append(f"| {what} | {value:.3g} | {unit} |")
                print(lines[-1], flush=True)
            if asked.out:
                asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
