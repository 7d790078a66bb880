"""The study's table -> docs/results.md and its figure: numbers, and conclusions that follow from them by rule."""

import io
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from leanmotion.study.trial import Trial

Row = Mapping[str, Any]

_NAMES = {
    "fvd": "FVD, least first",
    "reverse": "FVD, most first",
    "similarity": "cosine similarity",
    "fvd_per_mac": "FVD per MAC",
}


def page(rows: Sequence[Row], planned: Sequence[Trial], meta: Mapping[str, str]) -> str:
    """The Markdown page.

    Args:
        rows: of the `study` table, both arms of every finished trial.
        planned: all trials of the full study.
        meta: extractor, teacher and split, as the table carries them.
    """
    done = {_key(row) for row in rows}
    missing = [trial for trial in planned if _trial_key(trial) not in done]
    first = rows[0]
    head = [
        "# What the study found",
        "",
        "Written by `make study` from `metrics/study.parquet`: numbers and sentences follow from the table by rule.",
        "",
        f"{len(planned) - len(missing)} of {len(planned)} trials ran. Each deletes units from the whole teacher, "
        f"trains what is left for {first['steps']} steps in all, and draws {first['videos']} clips of the "
        f"{meta['split']} split (seeds b). FVD and paired distance are to the teacher's clips of the same prompts and "
        f"seeds ({meta['extractor']} features, {meta['frames']} frames; not comparable with published values), with "
        f"{float(meta['interval']):.0%} intervals over clips; excess is over the null of other seeds "
        f"(FVD {first['null']:.3g}). Teacher {meta['teacher_sha256'][:12]}.",
        "",
        "![Same-seed FVD of every trial](results.svg)",
        "",
    ]
    parts = [*head, *_table(rows), "", "## Conclusions", ""]
    for say in (_of_orders, _of_repair, _of_criteria, _of_path, _of_granularity, _of_distillation):
        parts += [f"- {sentence}" for sentence in say(rows)]
    parts += ["", "## Not run", ""]
    parts += [f"- {_grouped(label(_trial_key(trial)), trial.question)}" for trial in missing] or ["Nothing is missing."]
    return "\n".join(parts) + "\n"


def label(key: tuple[str, str, str, str, int]) -> str:
    """A trial in words."""
    _, order, granularity, path, seed = key
    kind = "" if granularity == "temporal_transformer" else f", {granularity.replace('_', ' ')}s"
    way = ", iterative" if path == "iterative" else ""
    name = _NAMES.get(order, order.replace("_", " order "))
    return f"{name}{kind}{way}, training seed {seed}"


def figure(rows: Sequence[Row]) -> str:
    """SVG: same-seed FVD of every kind of trial, pruned only and distilled, one point a training seed."""
    import matplotlib
    from matplotlib.figure import Figure

    kinds: dict[tuple[str, str, str, str, int], list[Row]] = {}
    for row in rows:
        kinds.setdefault((*_key(row)[:4], 0), []).append(row)
    # Fixed ids and no date: the same rows give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "leanmotion", "svg.fonttype": "path"}):
        canvas = Figure(figsize=(8, 1.2 + 0.32 * len(kinds)), layout="constrained")
        axes = canvas.subplots()
        for place, theirs in enumerate(kinds.values()):
            for arm, fill in (("pruned", "white"), ("distilled", "#1f5fa8")):
                values = [row["fvd"] for row in theirs if row["arm"] == arm]
                axes.plot(values, [place] * len(values), "o", color="#1f5fa8", mfc=fill, label=None if place else arm)
        names = [label(key).removesuffix(", training seed 0") for key in kinds]
        axes.set_yticks(range(len(kinds)), [_grouped(name, key[0]) for name, key in zip(names, kinds, strict=True)])
        axes.invert_yaxis()
        if min(row["fvd"] for row in rows) > 0:
            axes.set_xscale("log")
        axes.set_xlabel("FVD to the teacher's clips of the same seeds (lower is closer)")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="best", frameon=False)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _grouped(name: str, question: str) -> str:
    kinds = {"granularity": " (equal parameters)", "depth": " (one block left)"}
    return f"{name}{kinds.get(question, '')}"


def _key(row: Row) -> tuple[str, str, str, str, int]:
    return (row["question"], row["order"], row["granularity"], row["path"], row["seed"])


def _trial_key(trial: Trial) -> tuple[str, str, str, str, int]:
    return (trial.question, trial.order, trial.granularity, trial.path, trial.seed)


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| trial | units deleted | parameters deleted, millions | MACs deleted, millions | pruned FVD | distilled FVD "
        "| paired | excess | motion accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for distilled in (row for row in rows if row["arm"] == "distilled"):
        pruned = next(r for r in rows if _key(r) == _key(distilled) and r["arm"] == "pruned")
        accuracy = distilled["motion_accuracy"]
        lines.append(
            f"| {_grouped(label(_key(distilled)), distilled['question'])} | {distilled['removed']} "
            f"| {distilled['parameters_removed'] / 1e6:.3g} | {distilled['macs_removed'] / 1e6:.3g} "
            f"| {_interval(pruned, 'fvd')} | {_interval(distilled, 'fvd')} | {distilled['paired']:.3g} "
            f"| {distilled['excess']:.1%} | {'-' if accuracy is None else f'{accuracy:.1%}'} |"
        )
    return lines


def _interval(row: Row, name: str) -> str:
    return f"{row[name]:.3g} ({row[f'{name}_low']:.3g} to {row[f'{name}_high']:.3g})"


def _values(rows: Sequence[Row], arm: str = "distilled", **wanted: str) -> list[float]:
    return [r["fvd"] for r in rows if r["arm"] == arm and all(r[k] == v for k, v in wanted.items())]


def _spread(values: Sequence[float]) -> float | None:
    return max(values) - min(values) if len(values) > 1 else None


def _of_orders(rows: Sequence[Row]) -> list[str]:
    """Whether the FVD order beats the mean of the random ones, and the reverse, by more than training seeds differ."""
    ours = _values(rows, question="orders", order="fvd")
    if not ours:
        return ["The FVD order has not run yet: nothing can be said of it."]
    spread = _spread(ours)
    randoms = sorted({r["order"] for r in rows if r["order"].startswith("random_")})
    # Each random order counts once, however many seeds ran.
    means = [fmean(_values(rows, order=name)) for name in randoms]
    others = [(f"the mean of {len(means)} random orders", fmean(means))] if means else []
    others += [("the reverse order", fmean(v))] if (v := _values(rows, order="reverse")) else []
    said = []
    for name, theirs in others:
        gap = theirs - fmean(ours)
        start = f"FVD order against {name}, after distillation: {fmean(ours):.3g} against {theirs:.3g}."
        said.append(f"{start} {_verdict(gap, spread, len(ours))}")
    before = _values(rows, "pruned", question="orders", order="fvd")[0]
    pruned = [fmean(_values(rows, "pruned", order=name)) for name in randoms]
    if pruned:
        said.append(
            f"Pruned only, the FVD order leaves an FVD of {before:.3g}; random orders {min(pruned):.3g} to "
            f"{max(pruned):.3g}."
        )
    return said


def _verdict(gap: float, spread: float | None, seeds: int) -> str:
    if spread is None:
        return f"The gap is {gap:.3g}; one training seed ran, so that nothing says how much of it is chance."
    size = f"{gap:.3g}, the spread (largest less smallest) over {seeds} training seeds {spread:.3g}"
    if gap > spread:
        return f"It is better by more than training seeds differ: the gap is {size}."
    if gap > 0:
        return f"It is better, but not by more than training seeds differ: the gap is {size}."
    return f"It is **not** better: the gap is {size}."


def _of_repair(rows: Sequence[Row]) -> list[str]:
    """What distillation makes of the FVD order's deletions: the median over training seeds."""
    said = []
    for question in ("orders", "depth"):
        theirs = [r for r in rows if r["question"] == question and r["order"] == "fvd"]
        distilled = [r for r in theirs if r["arm"] == "distilled"]
        if not distilled:
            continue
        before = next(r for r in theirs if r["arm"] == "pruned")
        fvd = median(r["fvd"] for r in distilled)
        line = (
            f"{before['removed']} blocks deleted in the FVD order: FVD {before['fvd']:.3g} pruned only, {fvd:.3g} "
            f"distilled (median of {len(distilled)} training seeds, null {before['null']:.3g})"
        )
        if before["motion_accuracy"] is not None:
            read = median(r["motion_accuracy"] for r in distilled)
            line += f"; motion read {before['motion_accuracy']:.1%} and {read:.1%}"
        said.append(f"{line}.")
    return said


def _of_criteria(rows: Sequence[Row]) -> list[str]:
    ours = _values(rows, question="orders", order="fvd")
    said = []
    for name in ("similarity", "fvd_per_mac"):
        theirs = _values(rows, question="orders", order=name)
        if ours and theirs:
            macs = [next(r["macs_removed"] for r in rows if r["order"] == o) for o in ("fvd", name)]
            said.append(
                f"FVD order against {_NAMES[name]}: {fmean(ours):.3g} against {fmean(theirs):.3g}, while they delete "
                f"{macs[0] / 1e6:.3g} and {macs[1] / 1e6:.3g} million MACs. "
                + _verdict(fmean(theirs) - fmean(ours), _spread(ours), len(ours))
            )
    return said


def _of_path(rows: Sequence[Row]) -> list[str]:
    one = _values(rows, question="orders", order="fvd")
    many = _values(rows, question="path")
    if not one or not many:
        return ["Iterative deletion against one shot: not run yet."]
    return [
        f"Iterative deletion against one shot, the same blocks and steps in all: {fmean(many):.3g} against "
        f"{fmean(one):.3g}. Of the iterative one: {_verdict(fmean(one) - fmean(many), _spread(one), len(one))}"
    ]


def _of_granularity(rows: Sequence[Row]) -> list[str]:
    theirs = [r for r in rows if r["question"] == "granularity" and r["arm"] == "distilled"]
    if len({r["granularity"] for r in theirs}) < 2:
        return ["Granularities at equal parameters: not run yet."]
    first = {r["granularity"]: r for r in reversed(theirs)}
    means = {g: fmean(_values(rows, question="granularity", granularity=g)) for g in first}
    ordered = sorted(first, key=lambda g: means[g])
    what = "; ".join(
        f"{first[g]['removed']} {g.replace('_', ' ')}s ({first[g]['parameters_removed'] / 1e6:.3g} million parameters, "
        f"{first[g]['macs_removed'] / 1e6:.3g} million MACs) {means[g]:.3g}"
        for g in ordered
    )
    return [f"About equal parameters deleted by similarity, FVD after distillation, least harm first: {what}."]


def _of_distillation(rows: Sequence[Row]) -> list[str]:
    pairs = [
        (next(r["fvd"] for r in rows if _key(r) == _key(row) and r["arm"] == "pruned"), row["fvd"])
        for row in rows
        if row["arm"] == "distilled"
    ]
    better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    ratios = [b / a for a, b in pairs if a > 0]
    return [
        f"Distillation lowered the FVD in {better} of {len(pairs)} trials and raised it in {worse}; distilled over "
        f"pruned only is {min(ratios):.3g} at best and {max(ratios):.3g} at worst."
        if ratios
        else f"Distillation lowered the FVD in {better} of {len(pairs)} trials."
    ]
