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
        _of_repair,
        _of_influence,
        _of_prediction,
        _of_criteria,
        _of_path,
        _of_granularity,
        _of_distillation,
        _of_motion,
    )
    return [sentence for say in says for sentence in say(rows)]


def trained(rows: Sequence[Row]) -> list[Row]:
    """Rows of trials that were trained."""
    return [row for row in rows if row["question"] not in (PREDICTION, MOTION)]


def predicted_and_drawn(rows: Sequence[Row]) -> list[Row]:
    """Rows of sets that were chosen before they were drawn, and drawn only; each set once, smaller ones first."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row["question"] == PREDICTION and row.get("predicted") is not None:
            found.setdefault(tuple(sorted(row["units"])), row)
    return sorted(found.values(), key=lambda row: (row["removed"], row["predicted"]))


def _values(rows: Sequence[Row], arm: str = "distilled", **wanted: str) -> list[float]:
    return [r["fvd"] for r in rows if r["arm"] == arm and all(r[k] == v for k, v in wanted.items())]


def _spread(values: Sequence[float]) -> float | None:
    return max(values) - min(values) if len(values) > 1 else None


def _numbered(rows: Sequence[Row], kind: str) -> list[str]:
    return sorted({r["order"] for r in rows if r["question"] == "orders" and r["order"].startswith(f"{kind}_")})


def _of_orders(rows: Sequence[Row]) -> list[str]:
    """Whether the FVD order beats fair controls, by more than training seeds differ; then those that lose the hubs."""
    ours = _values(rows, question="orders", order="fvd")
    if not ours:
        return ["The FVD order has not run yet: nothing can be said of it."]
    spread = _spread(ours)
    # Each random order counts once, however many seeds ran.
    keeping, equal, any_order = (
        [fmean(_values(rows, order=name)) for name in _numbered(rows, kind)]
        for kind in ("keeping", "equal_macs", "random")
    )
    others = [(f"the mean of {len(keeping)} random orders that keep the two", fmean(keeping))] if keeping else []
    others += [(f"the best of {len(equal)} random sets of equal MACs", min(equal))] if equal else []
    others += [("any random order", fmean(any_order))] if any_order else []
    others += [("the reverse order", fmean(v))] if (v := _values(rows, order="reverse")) else []
    said = []
    for name, theirs in others:
        start = f"FVD order against {name}, after distillation: {fmean(ours):.3g} against {theirs:.3g}."
        said.append(f"{start} {_verdict(theirs - fmean(ours), spread, len(ours))}")
    before = _values(rows, "pruned", question="orders", order="fvd")[0]
    pruned = [
        fmean(_values(rows, "pruned", order=n)) for n in (*_numbered(rows, "keeping"), *_numbered(rows, "equal_macs"))
    ]
    if pruned:
        said.append(
            f"Pruned only, the FVD order leaves an FVD of {before:.3g}; random deletions that keep the two "
            f"{min(pruned):.3g} to {max(pruned):.3g}."
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


def _of_influence(rows: Sequence[Row]) -> list[str]:
    """The orders that no clip was drawn for, against the FVD order."""
    fvd = _values(rows, question="orders", order="fvd")
    said = []
    for name, words in (("influence", "The influence order"), ("sets", "The set of least predicted damage")):
        ours = _values(rows, question="orders", order=name)
        if not fvd or not ours:
            continue
        sets = [
            {tuple(sorted(r["units"])) for r in rows if r["order"] == o and r["question"] == "orders"}
            for o in ("fvd", name)
        ]
        before = [_values(rows, "pruned", question="orders", order=o)[0] for o in ("fvd", name)]
        start = f"{words} against the FVD order: pruned only {before[1]:.3g} against {before[0]:.3g}"
        if sets[0] == sets[1]:
            said.append(f"{start}: it deletes the same blocks.")
            continue
        gap = fmean(fvd) - fmean(ours)
        said.append(
            f"{start}, distilled {fmean(ours):.3g} against {fmean(fvd):.3g}. {_verdict(gap, _spread(fvd), len(fvd))}"
        )
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
        said.append(f"Among sets of one size the mean tau is {fmean(within):.2f}: size alone orders the rest.")
    ratios = {
        size: median(r["paired"] / r["predicted"] for r in pairs if r["removed"] == size and r["predicted"] > 0)
        for size in sorted({row["removed"] for row in pairs if row["predicted"] > 0})
    }
    usual = median(ratios.values())
    off = {size: ratio / usual for size, ratio in ratios.items() if not 1 / _FAILS <= ratio / usual <= _FAILS}
    words = ", ".join(f"{size} blocks {ratio / usual:.2g}" for size, ratio in ratios.items())
    said.append(f"Drawn over predicted, as a multiple of its median over sizes ({usual:.3g}): {words}.")
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
        f"In {len(both)} sizes the set of least predicted damage is another than the first blocks of the FVD order: "
        f"drawn, it is milder in {wins} of them."
    ]


def _of_criteria(rows: Sequence[Row]) -> list[str]:
    ours = _values(rows, question="orders", order="fvd")
    said = []
    for name, words in (("similarity", "cosine similarity"), ("fvd_per_mac", "FVD per MAC")):
        theirs = _values(rows, question="orders", order=name)
        if ours and theirs:
            macs = [next(r["macs_removed"] for r in rows if r["order"] == o) for o in ("fvd", name)]
            said.append(
                f"FVD order against {words}: {fmean(ours):.3g} against {fmean(theirs):.3g}, while they delete "
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
        (next(r["fvd"] for r in rows if row_key(r) == row_key(row) and r["arm"] == "pruned"), row["fvd"])
        for row in rows
        if row["arm"] == "distilled"
    ]
    if not pairs:
        return []
    better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    ratios = [b / a for a, b in pairs if a > 0]
    return [
        f"Distillation lowered the FVD in {better} of {len(pairs)} trials and raised it in {worse}; distilled over "
        f"pruned only is {min(ratios):.3g} at best and {max(ratios):.3g} at worst."
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
