"""How far to delete: the stop rule, from the evidence of every round to one round and the reason in words.

The rule takes the *furthest* round that is inside, also past one that is not. Rounds are measured independently, and
every student is judged by its own evidence: how it came about does not make it worse, while a single unlucky
measurement in the middle would otherwise throw away all that follows. What this costs is stated: among many rounds
the best of chance is favoured, so rounds that failed before the chosen one are named in the reason, `confident`
demands the whole interval, and the final figures come from a split that the choice never saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from leanmotion.errors import LeanmotionError
from leanmotion.ranking.rounding import UNIT, rounded

Rule = Literal["excess", "fvd", "accuracy", "knee"]
BASE = "base"
"""The round in which nothing was removed: the teacher."""


@dataclass(frozen=True)
class RoundEvidence:
    """What one round's student showed on the select split; None where it was not measured.

    Args:
        round: its name; `base` is the teacher.
        removed: blocks gone.
        macs: multiply-accumulates of one UNet call.
        excess: FVD over the null, minus 1; with its interval.
        fvd: FVD to the teacher's videos of other seeds (the teacher's own is the null); with its interval.
        accuracy: share of videos whose motion is the caption's, 0 to 1; with its interval.
    """

    round: str
    removed: int
    macs: float | None = None
    excess: float | None = None
    excess_low: float | None = None
    excess_high: float | None = None
    fvd: float | None = None
    fvd_low: float | None = None
    fvd_high: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> RoundEvidence:
        """From a row of the evaluation table; its FVD is the one across seeds, its accuracy that of motion."""
        columns = {"fvd": "fvd_cross", "accuracy": "motion_accuracy"}
        values = {
            name + end: row.get(columns.get(name, name) + end)
            for name in ("excess", "fvd", "accuracy")
            for end in ("", "_low", "_high")
        }
        numbers = {name: None if value is None else float(value) for name, value in values.items()}
        macs = row.get("macs")
        return cls(str(row["round"]), int(row["removed"]), None if macs is None else float(macs), **numbers)


@dataclass(frozen=True)
class Selection:
    """The chosen round (`base`: nothing is deleted), how many blocks are gone there, the rule and the reason."""

    round: str
    removed: int
    rule: str
    reason: str


def select(rows: Sequence[RoundEvidence], rule: Rule, allowance: float, confident: bool = False) -> Selection:
    """Choose a round.

    Args:
        rows: one a round, distilled students on the select split, in any order; `base` may be among them.
        rule: `excess`: at most `allowance` of excess over the null. `fvd`: FVD of at most `allowance`. `accuracy`:
            at least `allowance`. `knee`: where quality falls off against MACs saved (see `knee`), if it stands out
            by more than `allowance`; needs `base`.
        allowance: the limit, in the unit of the rule's measure.
        confident: the interval's worse end has to be inside, not the value alone; says nothing to the knee.

    Raises:
        LeanmotionError: an unknown rule, no rounds, or a round without the measure that the rule needs.
    """
    rounds = sorted((row for row in rows if row.round != BASE), key=lambda row: row.removed)
    if not rounds:
        raise LeanmotionError("selection: no rounds to choose from: list some under `rounds`")
    if rule == "knee":
        return _at_knee(rounds, rows, allowance)
    if rule not in _MEASURES:
        raise LeanmotionError(f"params.yaml: selection.rule is {rule!r}: choose excess, fvd, accuracy or knee")
    name, worse, sign, text = _MEASURES[rule]
    column = name + worse if confident else name
    values = [_value(row, column, rule) for row in rounds]
    # A comparison with NaN is false: a round whose measure failed is outside.
    inside = [sign * value <= sign * allowance for value in values]
    end = "the interval's worse end" if confident else "the measured value"
    what = f"{name} on the select split ({end})"
    limit = f"the {'floor' if sign < 0 else 'allowance'} of {text(allowance)}"
    if not any(inside):
        closest = min(zip(rounds, values, strict=True), key=lambda p: math.inf if math.isnan(p[1]) else sign * p[1])
        return Selection(
            BASE,
            0,
            rule,
            f"No round keeps its {what} inside {limit}; the closest is {closest[0].round} "
            f"({closest[0].removed} blocks) with {text(closest[1])}. The teacher is kept whole.",
        )
    index = max(i for i, good in enumerate(inside) if good)
    chosen = rounds[index]
    words = [
        f"{chosen.round} ({chosen.removed} blocks deleted) is the furthest round whose {what} is inside {limit}: "
        f"{text(values[index])}."
    ]
    if failed := [rounds[i] for i in range(index) if not inside[i]]:
        words.append(f"Fewer deletions were outside at {_names(failed)}: weigh the interval.")
    beyond = rounds[index + 1 :]
    words.append(
        f"The next, {beyond[0].round}, has {text(values[index + 1])}."
        if beyond
        else "No round went further: more deletion is untested."
    )
    return Selection(chosen.round, chosen.removed, rule, " ".join(words))


def check_rule(rule: str, read: bool) -> None:
    """Refuse a rule whose measure no round will have.

    Args:
        rule: the stop rule.
        read: whether the extractor reads off clips what all prompts ask for.

    Raises:
        LeanmotionError: `accuracy` of clips that nobody can read.
    """
    if rule == "accuracy" and not read:
        raise LeanmotionError(
            "params.yaml: selection.rule accuracy needs prompts of the sprites' world, and extractor.name sprites, "
            "which reads them off clips: choose another rule"
        )


def knee(saved: Sequence[float], damage: Sequence[float]) -> tuple[int, float]:
    """The knee of a curve that is flat first and steep later: its index and how far it stands out.

    Kneedle (Satopaa et al. 2011, "Finding a Kneedle in a Haystack", section III) for a convex, increasing curve: both
    axes are scaled to [0, 1], and the knee is where x - y is largest. The few measured rounds are not smoothed. Index
    0 and 0.0 where no point lies under the diagonal, or nothing is spread out.

    Args:
        saved: x, increasing.
        damage: y, higher is worse.
    """
    spans = [max(axis) - min(axis) for axis in (saved, damage)]
    # Not `== 0`: NaN has no knee either.
    if not all(span > 0 and math.isfinite(span) for span in spans):
        return 0, 0.0
    standing = [(x - min(saved)) / spans[0] - (y - min(damage)) / spans[1] for x, y in zip(saved, damage, strict=True)]
    index = max(range(len(standing)), key=standing.__getitem__)
    # On the diagonal, but for rounding: a straight line has no knee.
    return (index, standing[index]) if standing[index] > 1e-9 else (0, 0.0)


def _at_knee(rounds: Sequence[RoundEvidence], rows: Sequence[RoundEvidence], allowance: float) -> Selection:
    base = next((row for row in rows if row.round == BASE), None)
    if base is None:
        raise LeanmotionError("selection: the knee starts at the teacher: evaluate `base` as well")
    points = [base, *rounds]
    whole = _value(base, "macs", "knee")
    saved = [whole - _value(row, "macs", "knee") for row in points]
    index, standing = knee(saved, [_value(row, "fvd", "knee") for row in points])
    if index == 0 or standing <= allowance:
        return Selection(
            BASE,
            0,
            "knee",
            f"FVD against MACs saved has no knee that stands out by more than {allowance:.3g} (found "
            f"{standing:.3g}). The teacher is kept whole.",
        )
    chosen = points[index]
    return Selection(
        chosen.round,
        chosen.removed,
        "knee",
        f"{chosen.round} ({chosen.removed} blocks deleted) is the knee of FVD against MACs saved: {saved[index]:.3g} "
        f"MACs ({saved[index] / whole:.1%}) are saved at an FVD of {chosen.fvd:.4g}; after it quality falls faster "
        f"than cost. It stands out by {standing:.3g}.",
    )


def _value(row: RoundEvidence, column: str, rule: str) -> float:
    value = getattr(row, column)
    if value is None:
        raise LeanmotionError(
            f"params.yaml: selection.rule {rule} needs {column}, which round {row.round} lacks: choose another rule"
        )
    return float(value)


def _names(rows: Sequence[RoundEvidence]) -> str:
    return ", ".join(row.round for row in rows)


def _percent(value: float) -> str:
    # As in metrics/: the sentence stands there too.
    return f"{rounded(value, UNIT):.1%}"


def _number(value: float) -> str:
    return f"{value:.4g}"


# Measure, its interval's worse end, +1 where small is good, and how it is printed.
_MEASURES: dict[str, tuple[str, str, int, Callable[[float], str]]] = {
    "excess": ("excess", "_high", 1, _percent),
    "fvd": ("fvd", "_high", 1, _number),
    "accuracy": ("accuracy", "_low", -1, _percent),
}
