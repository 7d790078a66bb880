"""The `leanmotion` command: check the settings, see what would run, try an adapter, look at an artefact."""

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from leanmotion.errors import LeanmotionError
from leanmotion.stage import guarded

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)


@app.command()
@guarded
def check(
    params: Annotated[Path, typer.Option(help="the settings to check")] = Path("params.yaml"),
    measure: Annotated[bool, typer.Option(help="draw one chunk, and say how long a whole run takes")] = False,
) -> None:
    """Check settings, weight files and prompts; say what a whole run draws, stores and takes."""
    from leanmotion import estimate
    from leanmotion.features import open_extractor
    from leanmotion.prompts import load_prompts
    from leanmotion.settings import load_settings
    from leanmotion.teacher import weight_files

    settings = load_settings(params)
    files = weight_files(settings.teacher)
    prompts = load_prompts(settings.prompts.source)
    extractor = open_extractor(settings)
    clips, blocks = sum(settings.split_counts.values()), len(settings.teacher.blocks)
    print(f"settings valid: {blocks} blocks, {len(settings.rounds)} rounds, {clips} prompts with two seeds")
    print(f"teacher: {len(files)} files, {estimate.size(sum(f.stat().st_size for f in files.values()))}")
    print(f"prompts: {len(prompts)} different ones from {settings.prompts.source}")
    print(f"extractor: {extractor.name}, {extractor.dimensions} features, official: {extractor.official}")
    to_draw = estimate.clips_to_draw(settings)
    print(f"to draw: {sum(to_draw.values())} clips ({', '.join(f'{stage} {n}' for stage, n in to_draw.items())})")
    raw, low, high = (estimate.size(n) for n in estimate.video_bytes(settings))
    free = estimate.size(shutil.disk_usage(Path.cwd()).free)
    print(f"disk: {raw} of raw frames, {low} to {high} as stored twice (chunks, DVC cache); {free} are free")
    if not measure:
        print("time and memory: `leanmotion check --measure` draws one chunk to tell")
        return
    speed = estimate.measure_speed(settings)
    taken = estimate.seconds(settings, speed)
    print(f"memory: {estimate.size(speed.peak_bytes)} at peak while drawing, on {speed.device}")
    chunk = settings.sampling.chunk
    print(f"time: {estimate.duration(speed.clip_seconds * chunk)} a chunk of {chunk} clips")
    print(f"  drawing and training, all stages: about {estimate.duration(sum(taken.values()))}")
    for stage, value in taken.items():
        print(f"  {stage}: {estimate.duration(value)}")


@app.command()
@guarded
def plan() -> None:
    """Say which stages `dvc repro` would run, and why; nothing is run."""
    from leanmotion.plan import lines
    from leanmotion.plan import plan as ask

    print("\n".join(lines(ask())))


@app.command("sweep")
@partial(guarded, alone=False)
def sweep_command(
    params: Annotated[Path, typer.Option(help="the settings")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="the folder of artefacts")] = Path("data"),
    processes: Annotated[int, typer.Option(min=0, help="how many at once; 0: one a GPU, or one")] = 0,
) -> None:
    """Draw all missing clips of all stages at once, models loaded once; share the work with other sweeps."""
    from leanmotion import sweep
    from leanmotion.settings import load_settings
    from leanmotion.variants import devices

    settings = load_settings(params)
    stale = sweep.outdated()
    found = sweep.pending(settings, data, stale)
    missing = found.missing()
    for line in found.left_out:
        print(f"left out: {line}")
    if not any(missing.values()):
        print("nothing to draw: every chunk is in the store")
        return
    counts = ", ".join(f"{family} {n}" for family, n in missing.items() if n)
    print(f"to draw: {sum(missing.values())} chunks of {settings.sampling.chunk} clips ({counts})", flush=True)
    there = devices()
    wanted = [there[i % len(there)] for i in range(processes or len(there))]
    if len(wanted) == 1:
        sweep.sweep(params, data, stale)
    else:
        sweep.sweep_together(params, data, stale, wanted)
    print("done: `dvc repro` finds these in the store")


@app.command()
@guarded
def generate(
    prompt: Annotated[str, typer.Option(help="what to draw")],
    out: Annotated[Path, typer.Option("--out", "-o", help="a .gif or .mp4 to write")],
    adapter: Annotated[Path, typer.Option(help="a pruned adapter's folder")] = Path("data/export/pruned"),
    base: Annotated[str, typer.Option(help="the base pipeline: folder, single file or hub id")] = "data/teacher/base",
    frames: Annotated[int, typer.Option(min=1)] = 8,
    height: Annotated[int, typer.Option(min=8)] = 64,
    width: Annotated[int, typer.Option(min=8)] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 10,
    guidance: Annotated[float, typer.Option(min=1)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fps: Annotated[int, typer.Option(min=1, max=60)] = 8,
    scale: Annotated[int, typer.Option(min=1, help="MP4: enlarge so many times")] = 4,
) -> None:
    """Draw one clip with a pruned adapter."""
    if out.suffix not in {".gif", ".mp4"}:
        raise LeanmotionError(f"--out {out}: choose a name that ends in .gif or .mp4")
    import numpy as np
    import torch

    from leanmotion.adapter import load_pruned_pipeline
    from leanmotion.video import write_gif, write_mp4

    pipeline = load_pruned_pipeline(adapter, base=base)
    drawn = pipeline(
        prompt, num_frames=frames, height=height, width=width, num_inference_steps=steps, guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed), output_type="np",
    )  # fmt: skip
    clip = (np.asarray(drawn.frames[0]) * 255).round().astype(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    if out.suffix == ".gif":
        write_gif(out, clip, fps)
    else:
        write_mp4(out, clip, fps, scale)
    print(out)


@app.command()
@guarded
def show(
    artefact: Annotated[Path, typer.Argument(help="a Parquet artefact of data/")],
    rows: Annotated[int, typer.Option(min=1, help="rows to print")] = 30,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="of videos: a contact sheet to write, .png")] = None,
) -> None:
    """Print an artefact as a table; of a video table, write a contact sheet."""
    from leanmotion.tables import artefact_of, read_table, table_meta

    name = artefact_of(artefact)
    if name == "videos" and out is not None:
        _contact_sheet(artefact, out, rows)
        return
    table = read_table(artefact, name)
    plain = [c for c, kind in zip(table.column_names, table.schema.types, strict=True) if str(kind) != "binary"]
    print(table.select(plain).slice(0, rows).to_pandas().to_string(index=False))
    print(f"{name}: {table.num_rows} rows", *(f"{k}={v}" for k, v in sorted(table_meta(table).items())), sep="\n  ")


def _contact_sheet(artefact: Path, out: Path, rows: int) -> None:
    from PIL import Image

    from leanmotion.rendering import read_clips
    from leanmotion.video import contact_sheet

    clips = [clip for take in read_clips(artefact) for clip in take.frames][:rows]
    Image.fromarray(contact_sheet(clips, columns=2, scale=1)).save(out)
    print(out)
