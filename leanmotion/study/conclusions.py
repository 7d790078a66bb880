"""What the study's numbers say, by rule."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from leanmotion.ranking.agreement import kendall_tau
from leanmotion.study.motion_sense import QUESTION as MOTION
from leanmotion.study.study import row_key

Row = Mapping[str, Any]
PREDICTION = "prediction"
_FAILS = 3.0
"""How many times off a prediction is that is said to fail."""


def conclusions(rows: Sequence[Row]) -> list[str]:
    """Sentences, the order first."""
    says = (
        _of_orders,
        _of_influence,
        _of_prediction,
        _of_criteria,
        _of_granularity,
        _of_repair,
        _of_path,
        _of_distillation,
        _of_motion,
    )
    return [sentence for say in says for sentence in say(rows)]


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows of trials but those that test the prediction alone, or the extractor."""
    return [row for row in rows if row["question"] not in (PREDICTION, MOTION)]


def predicted_and_drawn(rows: Sequence[Row]) -> list[Row]:
    """Rows of sets that were chosen before they were drawn, and drawn only; each set once, smaller ones first."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row["question"] == PREDICTION and row.get("predicted") is not None:
            found.setdefault(tuple(sorted(row["units"])), row)
    return sorted(found.values(), key=lambda row: (row["removed"], row["predicted"]))


def _values(rows: Sequence[Row], arm: str = "distilled", **wanted: Any) -> list[float]:
    return [r["fvd"] for r in rows if r["arm"] == arm and all(r[k] == v for k, v in wanted.items())]


def _spread(values: Sequence[float]) -> float | None:
    return max(values) - min(values) if len(values) > 1 else None


def _orders(rows: Sequence[Row]) -> dict[str, Row]:
    """What each order's deletion does, drawn as it is."""
    return {row["order"]: row for row in rows if row["question"] == "orders"}


def _numbered(found: Mapping[str, Row], kind: str) -> list[Row]:
    return [row for name, row in sorted(found.items()) if name.startswith(f"{kind}_")]


def _against(ours: Row, theirs: Row | float) -> str:
    """A verdict on two deletions: apart where one's interval holds nothing of the other's."""
    value, low = (theirs, theirs) if isinstance(theirs, float | int) else (theirs["fvd"], theirs["fvd_low"])
    start = f"{ours['fvd']:.3g} against {value:.3g}"
    if ours["fvd"] >= value:
        return f"{start}: it is **not** better."
    return f"{start}: it is better{'' if ours['fvd_high'] < low else ', but not by more than the intervals'}."


def _same(one: Row, other: Row) -> bool:
    return sorted(one["units"]) == sorted(other["units"])


def _of_orders(rows: Sequence[Row]) -> list[str]:
    """Whether the FVD order beats fair controls as drawn; then those that lose the two most important blocks."""
    found = _orders(rows)
    if not (ours := found.get("fvd")):
        return ["The FVD order has not run yet: nothing can be said of it."]
    keeping, equal = _numbered(found, "keeping"), _numbered(found, "equal_macs")
    said: list[tuple[str, Row | float]] = []
    if keeping:
        mean = fmean(row["fvd"] for row in keeping)
        said.append((f"the mean of {len(keeping)} random orders that keep the two", mean))
    if equal:
        said.append((f"the best of {len(equal)} random sets of equal MACs", min(equal, key=lambda row: row["fvd"])))
    said += [("any random order", row) for row in _numbered(found, "random")]
    said += [("the reverse order", found["reverse"])] if "reverse" in found else []
    start = f"Pruned only, {ours['removed']} blocks deleted, the FVD order against"
    return [f"{start} {name}: {_against(ours, theirs)}" for name, theirs in said]


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
    for removed in sorted({r["removed"] for r in rows if r["question"] == "depth"}):
        theirs = [r for r in rows if r["question"] == "depth" and r["removed"] == removed]
        distilled = [r for r in theirs if r["arm"] == "distilled"]
        if not distilled:
            continue
        before = next(r for r in theirs if r["arm"] == "pruned")
        fvd = median(r["fvd"] for r in distilled)
        seeds = f"median of {len(distilled)} training seeds" if len(distilled) > 1 else "one training seed"
        line = (
            f"{removed} blocks deleted in the FVD order: FVD {before['fvd']:.3g} pruned only, {fvd:.3g} distilled "
            f"({seeds}, null {before['null']:.3g})"
        )
        if before["motion_accuracy"] is not None:
            read = median(r["motion_accuracy"] for r in distilled)
            line += f"; motion read {before['motion_accuracy']:.1%} and {read:.1%}"
        said.append(f"{line}.")
    return said


def _of_influence(rows: Sequence[Row]) -> list[str]:
    """The orders that no clip was drawn for, against the FVD order."""
    found = _orders(rows)
    fvd, said = found.get("fvd"), []
    for name, words in (("influence", "The influence order"), ("sets", "The set of least predicted damage")):
        if not fvd or not (ours := found.get(name)):
            continue
        start = f"{words} against the FVD order, pruned only"
        said.append(f"{start}: {'it deletes the same blocks.' if _same(ours, fvd) else _against(ours, fvd)}")
    return said


def _of_prediction(rows: Sequence[Row]) -> list[str]:
    """Rank correlation of predicted and drawn damage, and how far the first order holds as sets grow."""
    pairs = predicted_and_drawn(rows)
    if len(pairs) < 3:
        return []
    predicted, fvd, paired = (np.array([row[k] for row in pairs], float) for k in ("predicted", "fvd", "paired"))
    sizes = f"{pairs[0]['removed']} to {pairs[-1]['removed']} blocks"
    said = [
        f"Over {len(pairs)} sets of {sizes}, chosen before any was drawn, predicted damage orders drawn FVD with a "
        f"Kendall tau of {float(kendall_tau(predicted, fvd)):.2f} and paired distance with "
        f"{float(kendall_tau(predicted, paired)):.2f}."
    ]
    within = [
        float(kendall_tau(predicted[at], fvd[at]))
        for size in sorted({row["removed"] for row in pairs})
        if (at := np.array([row["removed"] == size for row in pairs])).sum() > 2
    ]
    if within:
        said.append(
            f"Among sets of the same size, where size itself says nothing, the mean tau is {fmean(within):.2f}."
        )
    ratios = {
        size: median(r["paired"] / r["predicted"] for r in pairs if r["removed"] == size and r["predicted"] > 0)
        for size in sorted({row["removed"] for row in pairs if row["predicted"] > 0})
    }
    usual = median(ratios.values())
    off = {size: ratio / usual for size, ratio in ratios.items() if not 1 / _FAILS <= ratio / usual <= _FAILS}
    words = ", ".join(f"{size} blocks {ratio / usual:.2g}" for size, ratio in ratios.items())
    said.append(
        f"Drawn over predicted damage has a median of {usual:.3g} over sizes. As a multiple of that median: {words}."
    )
    if off:
        failed = ", ".join(str(size) for size in off)
        said.append(
            f"**The first order fails** at {failed} blocks: it is off by more than a factor of {_FAILS:.0f} there."
        )
    return [*said, *_of_best_sets(pairs)]


def _of_best_sets(pairs: Sequence[Row]) -> list[str]:
    """The set of least predicted damage against the FVD order's, where they are two."""
    by_order = {row["order"]: row for row in pairs}
    both = [
        (row["fvd"], by_order[f"sets_{row['removed']}"]["fvd"])
        for row in pairs
        if row["order"] == f"fvd_{row['removed']}" and f"sets_{row['removed']}" in by_order
    ]
    if not both:
        return []
    wins = sum(sets < fvd for fvd, sets in both)
    return [
        f"In {len(both)} sizes the set of least predicted damage is not the first blocks of the FVD order. Drawn, it "
        f"is milder in {wins} of them."
    ]


def _of_criteria(rows: Sequence[Row]) -> list[str]:
    found, said = _orders(rows), []
    for name, words in (("similarity", "cosine similarity"), ("fvd_per_mac", "FVD per MAC")):
        if "fvd" in found and name in found:
            macs = [found[order]["macs_removed"] / 1e6 for order in ("fvd", name)]
            start = f"Pruned only, the FVD order against {words}"
            said.append(
                f"{start}: it deletes the same blocks."
                if _same(found["fvd"], found[name])
                else f"{start}, which delete {macs[0]:.3g} and {macs[1]:.3g} million MACs: "
                f"{_against(found['fvd'], found[name])}"
            )
    return said


def _of_path(rows: Sequence[Row]) -> list[str]:
    many = [row for row in rows if row["question"] == "path" and row["arm"] == "distilled"]
    one = _values(rows, question="depth", removed=many[0]["removed"]) if many else []
    if not one:
        return ["Iterative deletion against one shot: not run yet."]
    mean = fmean(row["fvd"] for row in many)
    return [
        f"Iterative deletion against one shot, the same blocks and steps in all: {mean:.3g} against "
        f"{fmean(one):.3g}. Of the iterative one: {_verdict(fmean(one) - mean, _spread(one), len(one))}"
    ]


def _of_granularity(rows: Sequence[Row]) -> list[str]:
    first = {r["granularity"]: r for r in rows if r["question"] == "granularity"}
    if len(first) < 2:
        return ["Granularities at equal parameters: not run yet."]
    what = "; ".join(
        f"{row['removed']} {name.replace('_', ' ')}s ({row['parameters_removed'] / 1e6:.3g} million parameters, "
        f"{row['macs_removed'] / 1e6:.3g} million MACs) {row['fvd']:.3g}"
        for name, row in sorted(first.items(), key=lambda item: item[1]["fvd"])
    )
    return [f"About equal parameters, deleted by similarity, FVD pruned only, least harm first: {what}."]


def _of_distillation(rows: Sequence[Row]) -> list[str]:
    pairs = [
        (next(r["fvd"] for r in rows if row_key(r) == row_key(row) and r["arm"] == "pruned"), row["fvd"])
        for row in rows
        if row["arm"] == "distilled"
    ]
    if not pairs:
        return []
    better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    ratios = [b / a for a, b in pairs if a > 0]
    return [
        f"Distillation lowered the FVD in {better} of {len(pairs)} trials and raised it in {worse}. Of the FVD of "
        f"pruned only it leaves {min(ratios):.3g} at best and {max(ratios):.3g} at worst."
        if ratios
        else f"Distillation lowered the FVD in {better} of {len(pairs)} trials."
    ]


def _of_motion(rows: Sequence[Row]) -> list[str]:
    """Whether a change of motion alone moves the distance at all."""
    said = {row["order"]: row for row in rows if row["question"] == MOTION}
    if not said:
        return []
    words = ", ".join(f"{name.replace('_', ' ')} {row['fvd']:.3g}" for name, row in said.items())
    null, least = next(iter(said.values()))["null"], min(row["fvd"] for row in said.values())
    feels = "it feels motion" if least > null else "**it hardly feels motion**"
    return [f"The teacher's clips without their motion: FVD of {words}, where other seeds give {null:.3g}: {feels}."]
