"""The study's table -> docs/results.md and its figures: numbers, and conclusions that follow from them by rule."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from leanmotion.study.conclusions import PREDICTION, Row, compared, conclusions, predicted_and_drawn
from leanmotion.study.motion_sense import QUESTION as MOTION
from leanmotion.study.study import Key, key_of, row_key
from leanmotion.study.trial import Trial

_NAMES = {
    "fvd": "FVD, least first",
    "influence": "influence, least first",
    "sets": "set of least predicted damage",
    "sets_second": "set of second least predicted damage",
    "reverse": "FVD, most first",
    "similarity": "cosine similarity",
    "fvd_per_mac": "FVD per MAC",
    "frames_shuffled": "frames shuffled",
    "first_frame_repeated": "first frame repeated",
}


_TRAINED = ("depth", "path", "repair")
"""Questions whose trials are trained."""


def page(rows: Sequence[Row], planned: Sequence[Trial], meta: Mapping[str, str]) -> str:
    """The Markdown page.

    Args:
        rows: of the `study` table, all arms of every finished trial, and what the extractor feels of motion.
        planned: all trials of the full study.
        meta: extractor, teacher and split, as the table carries them.
    """
    done = {row_key(row) for row in rows}
    missing = [trial for trial in planned if key_of(trial) not in done]
    first, steps = rows[0], max(row.get("steps") or 0 for row in rows)
    head = [
        "# What the study found",
        "",
        "For whoever doubts that the order of deletion matters. Written by `make study` from `metrics/study.parquet`: "
        "all numbers and sentences follow from that table by rule.",
        "",
        "## Conclusions",
        "",
        *(f"- {sentence}" for sentence in conclusions(rows)),
        "",
        "## How it was done",
        "",
        f"- {len(planned) - len(missing)} of {len(planned)} trials ran. Each deletes units from the whole teacher and "
        f"draws {first['videos']} clips of the {meta['split']} split (seeds b).",
        f"- Trials with a training seed then train what is left for {steps} steps in all, and draw again.",
        "- FVD and paired distance are taken to the teacher's clips of the same prompts and seeds "
        f"({meta['extractor']} features, {meta['frames']} frames). They do not compare with published values. "
        f"Intervals are {float(meta['interval']):.0%}, over clips.",
        f"- Other seeds of the teacher give an FVD of {first['null']:.3g}: the null. Excess is by how much a student "
        "is above it.",
        "- Orders that *keep two* are random, but delete the two most important blocks last. Sets of *equal MACs* are "
        "random, keep these two as well, and delete about as many MACs as the FVD order does. Without these two any "
        "deletion loses to any other: that would say nothing of an order.",
        f"- Teacher {meta['teacher_sha256'][:12]}.",
        "",
        "## All trials",
        "",
        "![FVD of every trial, to the teacher's clips of the same seeds](results.svg)",
        "",
    ]
    parts = [*head, *_table(rows), "", *_prediction(rows), *_motion(rows), "## Not run", "", *_not_run(missing)]
    return "\n".join(parts) + "\n"


def _not_run(missing: Sequence[Trial]) -> list[str]:
    """A line a trial, its training seeds together."""
    seeds: dict[str, list[str]] = {}
    for trial in missing:
        name, _, seed = _grouped(label(key_of(trial)), trial.question).partition(", training seed ")
        seeds.setdefault(name, []).append(seed)
    said = [f"- {name}" + (f", training seeds {', '.join(many)}" if many[0] else "") for name, many in seeds.items()]
    return said or ["Nothing is missing."]


def label(key: Key) -> str:
    """A trial in words."""
    question, order, granularity, path, seed = key
    if question in (PREDICTION, "depth", "path"):
        name, _, size = order.rpartition("_")
        words = f"{_named(name)}, {size} blocks"
    else:
        words = _named(order)
    kind = "" if granularity == "temporal_transformer" else f", {granularity.replace('_', ' ')}s"
    way = ", iterative" if path == "iterative" else ""
    how = f", training seed {seed}" if question in _TRAINED else ""
    return f"{words}{kind}{way}{how}"


def _named(order: str) -> str:
    name, _, number = order.rpartition("_")
    if number.isdigit():
        return {"random": "any random order", "keeping": "random order keeping two"}.get(
            name, f"random set of equal MACs {number}"
        ) + (f" {number}" if name == "keeping" else "")
    return _NAMES.get(order, order)


def figure(rows: Sequence[Row]) -> str:
    """SVG: same-seed FVD of every kind of trial, pruned only and distilled, one point a training seed; and beside it
    predicted against drawn damage.
    """
    import matplotlib
    from matplotlib.figure import Figure

    kinds: dict[tuple[str, str, str, str, int], list[Row]] = {}
    for row in compared(rows):
        kinds.setdefault((*row_key(row)[:4], 0), []).append(row)
    pairs = predicted_and_drawn(rows)
    # Fixed ids and no date: the same rows give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "leanmotion", "svg.fonttype": "path"}):
        canvas = Figure(figsize=(12 if pairs else 8, max(3.2, 1.2 + 0.32 * len(kinds))), layout="constrained")
        axes, *more = canvas.subplots(1, 2, squeeze=False)[0] if pairs else [canvas.subplots()]
        _plot_trials(axes, kinds)
        for beside in more:
            _plot_prediction(beside, pairs)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _plot_trials(axes: Any, kinds: Mapping[Key, Sequence[Row]]) -> None:
    for place, theirs in enumerate(kinds.values()):
        for arm, fill in (("pruned", "white"), ("distilled", "#1f5fa8")):
            values = [row["fvd"] for row in theirs if row["arm"] == arm]
            axes.plot(values, [place] * len(values), "o", color="#1f5fa8", mfc=fill, label=None if place else arm)
    names = [_grouped(label(key).replace(", training seed 0", ", trained"), key[0]) for key in kinds]
    axes.set_yticks(range(len(kinds)), names)
    axes.invert_yaxis()
    if min((row["fvd"] for theirs in kinds.values() for row in theirs), default=0) > 0:
        axes.set_xscale("log")
    axes.set_xlabel("FVD to the teacher's clips of the same seeds (lower is closer)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best", frameon=False)


def _plot_prediction(axes: Any, pairs: Sequence[Row]) -> None:
    marks = {"fvd": "o", "sets": "s", "sets_second": "D"}
    for name in dict.fromkeys(row["order"].rpartition("_")[0] for row in pairs):
        mine = [row for row in pairs if row["order"].rpartition("_")[0] == name]
        points = [[row[key] for row in mine] for key in ("predicted", "paired")]
        axes.plot(*points, marks.get(name, "^"), mfc="none", label=_named(name))
    if min(row[key] for row in pairs for key in ("predicted", "paired")) > 0:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("predicted damage")
    axes.set_ylabel("paired distance, drawn, pruned only")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)


def _grouped(name: str, question: str) -> str:
    return f"{name} (equal parameters)" if question == "granularity" else name


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| trial | units deleted | parameters deleted, millions | MACs deleted, millions | pruned FVD | distilled FVD "
        "| paired | excess | motion accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pruned in (row for row in compared(rows) if row["arm"] == "pruned"):
        distilled = next((r for r in rows if row_key(r) == row_key(pruned) and r["arm"] == "distilled"), None)
        last = distilled or pruned
        accuracy = last["motion_accuracy"]
        lines.append(
            f"| {_grouped(label(row_key(pruned)), pruned['question'])} | {pruned['removed']} "
            f"| {pruned['parameters_removed'] / 1e6:.3g} | {pruned['macs_removed'] / 1e6:.3g} "
            f"| {interval(pruned, 'fvd')} | {interval(distilled, 'fvd') if distilled else '-'} | {last['paired']:.3g} "
            f"| {last['excess']:.1%} | {'-' if accuracy is None else f'{accuracy:.1%}'} |"
        )
    return lines


def _prediction(rows: Sequence[Row]) -> list[str]:
    """Sets that were chosen before any of them was drawn: predicted and drawn damage, by size."""
    pairs = predicted_and_drawn(rows)
    if not pairs:
        return []
    lines = [
        "## Predicted and drawn damage",
        "",
        "These sets were chosen before any of them was drawn. None was trained.",
        "",
    ]
    lines += [
        "| set | blocks | MACs deleted, millions | predicted | drawn FVD | drawn paired | paired over predicted |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in pairs:
        ratio = f"{row['paired'] / row['predicted']:.3g}" if row["predicted"] > 0 else "-"
        lines.append(
            f"| {_named(row['order'].rpartition('_')[0])} | {row['removed']} | {row['macs_removed'] / 1e6:.3g} "
            f"| {row['predicted']:.3g} | {interval(row, 'fvd')} | {row['paired']:.3g} | {ratio} |"
        )
    return [*lines, ""]


def _motion(rows: Sequence[Row]) -> list[str]:
    mine = [row for row in rows if row["question"] == MOTION]
    lines = (
        ["## What the extractor feels of motion", "", "The teacher's own clips with their motion changed:", ""]
        if mine
        else []
    )
    lines += ["| clips | FVD | paired | motion measure |", "|---|---|---|---|"] if mine else []
    for row in mine:
        cells = [interval(row, name) for name in ("fvd", "paired", "motion")]
        lines.append(f"| {_named(row['order'])} | {' | '.join(cells)} |")
    return [*lines, ""] if mine else []


def interval(row: Row, name: str) -> str:
    """A figure with its interval."""
    return f"{row[name]:.3g} ({row[f'{name}_low']:.3g} to {row[f'{name}_high']:.3g})"
