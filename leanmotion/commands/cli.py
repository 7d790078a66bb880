"""The `leanmotion` command: check the settings, see what would run, try an adapter, look at an artefact."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.stage import guarded

_HELP = """The pipeline itself is `dvc repro`; these commands stand around it.

Run them in the project's folder. An error takes one line, and the exit code is 2.

\b
before a run:        leanmotion check --measure
the stages:          leanmotion dag
after an edit:       leanmotion plan
after a run:         open data/report.html
                     leanmotion generate --prompt "..." -o clip.gif
                     leanmotion show data/ranking.parquet
lighter by so much:  leanmotion solve --latency 70%
"""
_AS_JUDGED = "[default: as the adapter was judged, else by the settings]"
# Plain text: Rich markup takes what stands in brackets for its own, and cuts "[default: ...]" out.
app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None, help=_HELP
)


@app.command()
@guarded
def check(
    params: Annotated[Path, typer.Option(help="the settings to check")] = Path("params.yaml"),
    measure: Annotated[
        bool, typer.Option("--measure", help="draw one chunk of clips, and say how long a whole run takes here")
    ] = False,
    tflops: Annotated[
        float, typer.Option(min=0, help="count how long a run takes on a card that reaches so many TFLOP/s")
    ] = 0.0,
) -> None:
    """Check settings and files; say what a run draws and takes.

    Runs nothing of the pipeline. Settings are compared with their schema and with the stages of dvc.yaml. Teacher,
    extractor, prompts and captions are opened. What a later stage would stop at, by settings and files alone, is an
    error here. Free disk is set beside what videos will take.

    With --measure one chunk of clips is drawn (after a first clip to warm up), and time and memory of a whole run are
    worked out from it. With --tflops the arithmetic is counted instead, for a card that is not here.

    \b
    leanmotion check
    leanmotion check --measure --params presets/animatediff-v1-5-2.yaml
    leanmotion check --tflops 60 --params presets/animatediff-v1-5-2-evening.yaml
    """
    from leanmotion.commands.check import lines

    for line in lines(params, measure=measure, tflops=tflops):
        print(line, flush=True)


@app.command()
@guarded
def taken() -> None:
    """Print which files of yours are read, converted or refused.

    In Markdown: the table of docs/real-teachers.md.
    """
    from leanmotion.checking.taken import table

    print(table(), end="")


@app.command()
@guarded
def plan() -> None:
    """Say which stages `dvc repro` would run, and why; nothing is run.

    First come stages whose settings, code or inputs changed, each with the reasons. Then come those behind them, which
    run only if what they read comes out different. A file that is missing and that no stage makes is an error.
    Frozen stages, which `dvc repro` leaves alone, are named apart. Times are those of earlier runs in this folder.
    """
    from leanmotion.commands.plan import lines, refuse_incomplete
    from leanmotion.commands.plan import plan as ask

    refuse_incomplete()
    print("\n".join(lines(ask())))


@app.command("dag")
@guarded
def dag_command() -> None:
    """Print the pipeline's graph, a line for each family of stages.

    A family is stages that differ in one name, as ablate@up_0_1 and ablate@up_0_2. Beside it stands what it runs after.
    Links that others imply are left out. Every stage by itself: `dvc dag --dot`.
    """
    from leanmotion.commands.dag import families, lines

    print("\n".join(lines(families())))


@app.command("solve")
@guarded
def solve_command(
    latency: Annotated[str, typer.Option(help="how much of the measured time may be left, as 70%")] = "",
    macs: Annotated[str, typer.Option(help="how much of the multiply-accumulates may be left, as 85%")] = "",
    parameters: Annotated[str, typer.Option(help="how much of the parameters may be left, as 85%")] = "",
    blocks: Annotated[int | None, typer.Option(help="how many blocks are deleted, no more and no fewer")] = None,
    of: Annotated[
        str, typer.Option(help="what these are shares of: call (the whole UNet) or motion (its motion blocks)")
    ] = "call",
    granularity: Annotated[
        str, typer.Option(help="what is deleted: temporal_transformer (whole blocks), transformer_block or attention")
    ] = "temporal_transformer",
    best: Annotated[int, typer.Option(min=1, help="sets to print, the best first")] = 5,
    pareto: Annotated[
        Path | None, typer.Option(help="a CSV file for all sets that no other beats in both saving and damage")
    ] = None,
    write: Annotated[str, typer.Option(help="put the first set into the settings, as a round of this name")] = "",
    measure: Annotated[bool, typer.Option("--measure", help="time the first set on this machine")] = False,
    params: Annotated[Path, typer.Option(help="the settings that --write edits")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="the folder of artefacts")] = Path("data"),
) -> None:
    """Find which blocks to delete for a budget of time or size.

    Printed are the sets that keep to the budget with the least predicted damage. It reads what the last `dvc repro`
    measured (influence and time of each block), draws nothing, and takes a second.
    `--write` makes the first set a round of the settings. `dvc repro` then deletes, repairs and judges it.

    \b
    leanmotion solve --latency 70%     # a UNet call may take 70% of its time
    leanmotion solve --blocks 14 --pareto front.csv
    leanmotion solve --macs 85% --write lean && dvc repro
    """
    from leanmotion.commands import solve
    from leanmotion.pipeline import terminal

    asked = {name: text for name, text in (("latency", latency), ("macs", macs), ("parameters", parameters)) if text}
    budgets = {name: solve.share_of(text, name) for name, text in asked.items()}
    problem = solve.read_problem(data, granularity, of)
    rows = solve.rows_of(problem, solve.solve(problem, budgets, blocks, best))
    kept = "".join(f", at most {text} of {of}'s {name} left" for name, text in asked.items())
    terminal.show(f"sets to delete, least predicted damage first{kept}", *solve.table_of(problem, rows))
    print("\n".join(solve.reading(problem, data, written=bool(write))))
    if pareto is not None:
        axis = next(iter(budgets or problem.saved))
        print(f"{pareto}: {solve.write_front(problem, axis, pareto)} sets that none beats in {axis} and damage")
    if write:
        solve.write_round(params, write, granularity, rows[0]["removed"])
        print(f"{params}: rounds.{write} deletes the first of these: `dvc repro`")
    if measure:
        print(solve.time_set(params, data, granularity, rows[0]))


@app.command("sweep")
@partial(guarded, alone=False)
def sweep_command(
    params: Annotated[Path, typer.Option(help="the settings")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="the folder of artefacts")] = Path("data"),
    processes: Annotated[int, typer.Option(min=0, help="how many at once; 0: one a GPU, or one")] = 0,
) -> None:
    """Draw the missing clips of all stages at once, models loaded once.

    Several sweeps share the work. Not needed on one machine: `dvc repro` draws them too. It is for several GPUs, or
    machines that share .scratch/. Run `dvc repro inspect` first, and `dvc repro` after it.
    """
    from leanmotion.commands import sweep
    from leanmotion.pipeline.processes import devices
    from leanmotion.pipeline.settings import load_settings
    from leanmotion.pipeline.watched_paths import check_paths

    settings = load_settings(params)
    check_paths(settings)
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
    base: Annotated[str, typer.Option(help="the base: folder, single file, hub id [default: teacher.base]")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="the teacher's clip of the same seed on the left")] = False,
    params: Annotated[Path, typer.Option(help="settings, for what the adapter does not say")] = Path("params.yaml"),
    frames: Annotated[int | None, typer.Option(min=1, help=_AS_JUDGED)] = None,
    height: Annotated[int | None, typer.Option(min=8, help=_AS_JUDGED)] = None,
    width: Annotated[int | None, typer.Option(min=8, help=_AS_JUDGED)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=_AS_JUDGED)] = None,
    guidance: Annotated[float | None, typer.Option(min=1, help=_AS_JUDGED)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of the noise: another seed, another clip")] = 0,
    fps: Annotated[int, typer.Option(min=1, max=60, help="frames a second of the file")] = 8,
) -> None:
    """Draw one clip with a pruned adapter.

    The sampler is that which judged the adapter.

    \b
    leanmotion generate --prompt "two red triangles meet" -o clip.gif
    leanmotion generate --prompt "a ring grows" --compare --seed 3 -o both.mp4
    """
    if out.suffix not in {".gif", ".mp4"}:
        raise LeanmotionError(f"--out {out}: choose a name that ends in .gif or .mp4")
    from leanmotion.commands.drawing import draw_clips
    from leanmotion.pipeline.settings import load_settings
    from leanmotion.report.gallery import write_clips

    if not adapter.exists():
        raise LeanmotionError(f"--adapter {adapter}: no such folder: `dvc repro export` makes the default one")
    asked = {"frames": frames, "height": height, "width": width, "steps": steps, "guidance": guidance}
    clips = draw_clips(load_settings(params), prompt, seed, adapter=adapter, base=base, compare=compare, asked=asked)
    write_clips(clips, out, fps=fps)
    print(out)


@app.command()
@guarded
def show(
    artefact: Annotated[Path, typer.Argument(help="a Parquet artefact of data/ or metrics/")] = Path(
        "data/ranking.parquet"
    ),
    rows: Annotated[int, typer.Option(min=1, help="rows to print, or clips to show")] = 30,
    everything: Annotated[bool, typer.Option("--all", help="all columns, however wide")] = False,
    columns: Annotated[str, typer.Option(help="these columns, as block,fvd,kvd")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="of videos: .png for strips of frames, .gif or .mp4 to play")
    ] = None,
    fps: Annotated[int, typer.Option(min=1, max=60, help="frames a second of a .gif or .mp4")] = 8,
) -> None:
    """Print an artefact as a table that explains itself, or its clips.

    The table is as wide as the terminal. Lines below it say which columns were left out, and what the others hold.

    \b
    leanmotion show                       # data/ranking.parquet
    leanmotion show data/ranking.parquet --columns block,kvd,least_probability
    leanmotion show data/videos/ablate/mid_0.parquet -o sheet.png
    leanmotion show data/videos/full/report_a.parquet --rows 9 -o nine.gif
    """
    if artefact.suffix != ".parquet":
        raise LeanmotionError(f"{artefact}: show takes .parquet artefacts; open a page in a browser, JSON as text")
    from leanmotion.pipeline.tables import artefact_of

    if out is not None:
        if (name := artefact_of(artefact)) != "videos":
            raise LeanmotionError(f"--out {out}: {artefact} holds {name}, no videos: leave --out away to print it")
        from leanmotion.report.gallery import first_clips, write_clips

        write_clips(first_clips(artefact, rows), out, fps=fps)
        print(out)
        return
    from leanmotion.commands.show import lines

    asked = [name.strip() for name in columns.split(",") if name.strip()]
    print("\n".join(lines(artefact, rows, asked, everything=everything)))


@app.command()
@guarded
def readme(
    path: Annotated[Path, typer.Argument(help="the README, with its markers")] = Path("README.md"),
    params: Annotated[Path, typer.Option(help="the settings of the run")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="its artefacts")] = Path("data"),
    metrics: Annotated[Path, typer.Option(help="its metrics")] = Path("metrics"),
) -> None:
    """Write the README's results from those of the last run.

    These are figures, table, GIF and contact sheet, from its artefacts and metrics.

    What stands between `<!-- results -->` and `<!-- reading -->` and their ends is replaced; a test holds that these
    figures are those of metrics/.
    """
    from leanmotion.commands.readme import write_readme

    for written in write_readme(path, params=params, data=data, metrics=metrics):
        print(written)
