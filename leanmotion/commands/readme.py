"""The README's results, written from metrics and artefacts: no figure there is typed by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leanmotion.commands.readme_results import Results, read_results, real, untrained
from leanmotion.commands.readme_sentences import headline, labels, reading
from leanmotion.errors import LeanmotionError
from leanmotion.pipeline.numbers import amount, percent, short
from leanmotion.pipeline.writing import write_text

GIF, SHEET = "docs/original-and-pruned.gif", "docs/contact-sheet.png"
TIME = "UNet call"
_GIF_CLIPS, _SHEET_CLIPS, _STRIP = 8, 8, 8


def blocks(found: Results, seconds: Mapping[str, float]) -> dict[str, str]:
    """Marker -> what stands between `<!-- marker -->` and `<!-- /marker -->`.

    `results`: the answer in a sentence, the GIF and the table; `reading`: how to read it, and the contact sheet.

    Args:
        found: The metrics.
        seconds: Measured time of a UNet call, by round, `base` and `none` (no motion module): not in git, so that
            another machine's run changes no figure of the table but these.
    """
    total, gone = len(found.settings.teacher.blocks), found.removed(found.shown)
    trained = not any(untrained(found, row) for row in found.rounds if row["round"] == found.shown)
    rest = ("the rest distilled" if trained else "the rest left as it was") if gone < total else "none left"
    last = int(found.rounds[-1]["removed"])
    without = "without any motion block" if last == total else f"without {last} of {total} motion blocks"
    results = [
        *headline(found),
        f"![Clips of the original above, of the same prompts and seeds with {gone} of {total} motion blocks deleted "
        f"and {rest} below]({GIF})",
        f"*Above: the original. Below: {gone} of its {total} motion blocks deleted, {rest}. Same prompts, same seeds.*",
        f"What `make repro` finds on the embedded default ({labels(found)}):",
        table(found, seconds),
    ]
    how = [
        reading(found),
        f"![Strips of frames: the original on the left, the same prompts and seeds {without} on the right]({SHEET})",
        f"*Left: the original's clips of held-out captions. Right: the same prompts and seeds {without}, undistilled.*",
    ]
    return {"results": "\n\n".join(results), "reading": "\n\n".join(how)}


def table(found: Results, seconds: Mapping[str, float]) -> str:
    """A row a round, fewest deletions first, in Markdown; the chosen one in bold."""
    interval = f"{found.settings.evaluation.interval:.0%}"
    head = [
        "round", "deleted", "FVD pruned only", f"FVD distilled, {interval} interval", "FVD across seeds", "motion read",
        "parameters", "MACs", TIME,
    ]  # fmt: skip
    rows = []
    for row in found.rounds:
        name, original = row["round"], row["round"] == "base"
        distilled = _spread(row, "distilled_fvd_same_seeds", short)
        if untrained(found, row):
            distilled += " (kept untrained)"
        called = "original" if original else f"**{name}**, chosen" if name == found.selection["round"] else name
        cells = [called, row["removed"], short(real(row, "pruned_fvd_same_seeds")), distilled]
        cells += [short(real(row, "distilled_fvd")), _spread(row, "distilled_motion_accuracy", percent)]
        rows.append([*cells, amount(row["parameters"]), amount(row["macs"]), _milli(seconds.get(name))])
    heads = any(real(row, "distilled_motion_accuracy") is not None for row in found.rounds)
    keep = [i for i, name in enumerate(head) if name != "motion read" or heads]
    if "none" in seconds:
        rows.append(["no motion module", *[""] * 7, _milli(seconds["none"])])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line[i] for i in keep) + " |" for line in lines)


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
    for line in current(text, "results").splitlines():
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
