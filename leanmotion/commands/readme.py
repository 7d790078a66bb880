"""The README's results, written from metrics and artefacts: no figure there is typed by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from leanmotion.commands.readme_results import Results, read_results, real, untrained
from leanmotion.commands.readme_sentences import headline, measured, reading
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.numbers import percent, short
from leanmotion.pipeline.writing import write_text

GIF, SHEET = "docs/original-and-pruned.gif", "docs/contact-sheet.png"
TIME = "UNet call"
LINE = 116
_GIF_CLIPS, _SHEET_CLIPS, _STRIP = 8, 8, 8


def blocks(found: Results, seconds: Mapping[str, float]) -> dict[str, str]:
    """Marker -> what stands between `<!-- marker -->` and `<!-- /marker -->`, in lines of at most 120 columns.

    `results`: the GIF, and the answer in a sentence; `reading`: the table, how to read it, and the contact sheet.

    Args:
        found: The metrics.
        seconds: Measured time of a UNet call, by round, `base` and `none` (no motion module): not in git, so that
            another machine's run changes no other figure.
    """
    total, gone = len(found.settings.teacher.blocks), found.removed(found.shown)
    trained = not any(untrained(found, row) for row in found.rounds if row["round"] == found.shown)
    rest = ("the rest distilled" if trained else "the rest left as it was") if gone < total else "none left"
    last = int(found.rounds[-1]["removed"])
    without = "without any motion block" if last == total else f"without {last} of {total} motion blocks"
    results = [
        f"![Clips of the original, and of the pruned model]({GIF})",
        f"*Above: the original. Below: {gone} of its {total} motion blocks deleted, {rest}. Same prompts, same seeds.*",
        *headline(found, seconds),
    ]
    how = [
        *measured(found),
        table(found, seconds),
        *reading(found, seconds),
        f"![Frames of clips with and without motion blocks]({SHEET})",
        f"*Left: the original. Right: the same prompts and seeds {without}, not repaired.*",
    ]
    return {"results": _paragraphs(results), "reading": _paragraphs(how)}


def _paragraphs(parts: Sequence[str]) -> str:
    """Paragraphs in Markdown, wrapped; tables as they are."""
    return "\n\n".join(
        part if part.startswith("|") else fill(part, LINE, break_long_words=False, break_on_hyphens=False)
        for part in parts
    )


def table(found: Results, seconds: Mapping[str, float]) -> str:
    """A row a round, fewest deletions first, in Markdown; the chosen one in bold. The report has more columns."""
    interval = f"{found.settings.evaluation.interval:.0%}"
    head = ["round", "deleted", "FVD before repair", f"FVD after repair [{interval} interval]", "motion shown", TIME]
    rows = []
    for row in found.rounds:
        name = row["round"]
        called = f"**{name}**, chosen" if name == found.selection["round"] else name
        cells = [called, row["removed"], short(real(row, "pruned_fvd_same_seeds"))]
        cells += [_spread(row, "distilled_fvd_same_seeds", short), percent(real(row, "distilled_motion_accuracy"))]
        if name == "base":
            # The column is of the same seeds, under which the original is its own: the yardstick stands in a sentence.
            cells = ["original", 0, 0, 0, cells[-1]]
        elif untrained(found, row):
            cells[3] += ", not repaired"
        rows.append([*cells, _milli(seconds.get(name))])
    heads = any(real(row, "distilled_motion_accuracy") is not None for row in found.rounds)
    keep = [i for i, name in enumerate(head) if name != "motion shown" or heads]
    if "none" in seconds:
        rows.append(["no motion module", *[""] * 4, _milli(seconds["none"])])
    lines = ["| " + " | ".join(str(line[i]) for i in keep) + " |" for line in [head, *rows]]
    return "\n".join([lines[0], f"|{'---|' * len(keep)}", *lines[1:]])


def write_readme(
    readme: Path, *, params: Path = Path("params.yaml"), data: Path = Path("data"), metrics: Path = Path("metrics")
) -> list[Path]:
    """Write the blocks between the markers of a README, and its two pictures beside it; returns what was written.

    Raises:
        LeanmotionError: No markers, or metrics, latencies or videos that are missing or damaged.
    """
    found = read_results(params, metrics)
    text = replaced(readme, blocks(found, read_seconds(data / "latency.parquet")))
    pictures = _pictures(found, data)
    written = [_write_gif(readme.parent / GIF, pictures, found.settings.report.fps)]
    written.append(_write_sheet(readme.parent / SHEET, found, data))
    write_text(readme, text)
    return [*written, readme]


def replaced(readme: Path, new: Mapping[str, str]) -> str:
    """The README's text with new blocks between their markers.

    Raises:
        LeanmotionError: The file is missing, or does not hold each pair of markers once, in order.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LeanmotionError(f"{readme}: no such file") from None
    for name, block in new.items():
        pattern = _between(name)
        if len(pattern.findall(text)) != 1:
            raise LeanmotionError(f"{readme}: wants one `<!-- {name} -->` and, after it, one `<!-- /{name} -->`")
        text = pattern.sub(lambda match, block=block: f"{match[1]}\n{block}\n{match[3]}", text)
    return text


def current(text: str, name: str) -> str:
    """What stands between a README's markers now; empty without markers."""
    match = _between(name).search(text)
    return match[2].strip("\n") if match else ""


def current_seconds(text: str) -> dict[str, float]:
    """Round -> measured time as the README's own table has it: the one column that metrics do not hold."""
    found = {}
    for line in current(text, "reading").splitlines():
        if match := re.match(r"\| (?:\*\*(\w+)\*\*, chosen|([\w ]+?)) \|.*\| (\d[\d,.]*) ms \|$", line):
            called = match[1] or match[2]
            name = {"original": "base", "no motion module": "none"}.get(called, called)
            found[name] = float(match[3].replace(",", "")) / 1e3
    return found


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->)(.*?)(<!-- /{name} -->)", re.DOTALL)


def read_seconds(latency: Path) -> dict[str, float]:
    """Round -> measured time of a UNet call; `base` is the original, `none` has no motion module."""
    from leanmotion.pipeline.tables import read_frame

    rows = read_frame(latency, "latency")
    return {
        "base" if name == "full" else str(name): float(value)
        for name, value in zip(rows["variant"], rows["seconds"], strict=True)
    }


def _spread(row: Mapping[str, str], key: str, write: Any) -> str:
    low, high = real(row, f"{key}_low"), real(row, f"{key}_high")
    value = write(real(row, key))
    return value if low is None or high is None else f"{value} [{write(low)}, {write(high)}]"


def _milli(seconds: float | None) -> str:
    return "" if seconds is None else f"{short(seconds * 1e3)} ms"


def _pictures(found: Results, data: Path) -> list[list[np.ndarray]]:
    from leanmotion.report.gallery import matching_clips

    tables = [(data / "videos/full/report_b.parquet", "full")]
    tables.append((data / f"videos/rounds/{found.shown}.parquet", "distilled"))
    return matching_clips(tables, "report", "b", _GIF_CLIPS)


def _write_gif(out: Path, pictures: Sequence[Sequence[np.ndarray]], fps: int) -> Path:
    from leanmotion.report.gallery import enlarge, mosaic
    from leanmotion.videos.codec import write_gif

    above, below = pictures
    write_gif(out, enlarge(mosaic([*above, *below], len(above)), 1100), fps)
    return out


def _write_sheet(out: Path, found: Results, data: Path) -> Path:
    from leanmotion.report.gallery import matching_clips, write_png
    from leanmotion.videos.codec import contact_sheet

    last = found.rounds[-1]["round"]
    tables = [(data / "videos/full/report_b.parquet", "full"), (data / f"videos/rounds/{last}.parquet", "pruned")]
    pairs = zip(*matching_clips(tables, "report", "b", _SHEET_CLIPS), strict=True)
    strips = [clip for pair in pairs for clip in pair]
    wide = 2 * _STRIP * strips[0].shape[2]
    write_png(out, contact_sheet(strips, columns=2, frames_shown=_STRIP, scale=max(1, 1600 // wide), gap=6))
    return out
