"""The `carry_over` table -> its part of docs/results.md, between two marks, where the study leaves it."""

from collections.abc import Mapping, Sequence
from typing import Any

from leanmotion.study.carry_over import AS_JUDGED

BEGIN, END = "<!-- carry-over -->", "<!-- /carry-over -->"
Row = Mapping[str, Any]


def section(rows: Sequence[Row], meta: Mapping[str, str]) -> str:
    """The part, marks included.

    Args:
        rows: of the `carry_over` table, in its order.
        meta: round, extractor, teacher and interval, as the table carries them.
    """
    first = rows[0]
    lines = [
        BEGIN, "## Does it carry over?", "",
        f"The chosen student ({meta['round']}, {first['removed']} blocks deleted) stands beside the whole model, as it "
        f"was judged and under conditions where it was not. Each line has {first['videos']} clips "
        f"of the {meta['split']} split, {meta['extractor']} features (they do not compare with published values) and "
        f"{float(meta['interval']):.0%} intervals. Written by `make carry-over`. "
        f"Teacher {meta['teacher_sha256'][:12]}.", "",
        "| condition | frames | steps | null | excess | same-seed FVD | motion read: original, student | colour read "
        "| shape read |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_line, rows), "",
        *_said(rows), END,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    ends = [f"{row[name]:.0%} ({row[f'{name}_low']:.0%} to {row[f'{name}_high']:.0%})" for name in ("excess",)]
    fvd = f"{row['fvd']:.3g} ({row['fvd_low']:.3g} to {row['fvd_high']:.3g})"
    read = [
        f"{_share(row[f'original_{head}_accuracy'])}, {_share(row[f'{head}_accuracy'])}"
        for head in ("motion", "colour", "shape")
    ]
    cells = [row["condition"], row["frames"], row["steps"], f"{row['null']:.3g}", *ends, fvd, *read]
    return f"| {' | '.join(map(str, cells))} |"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _said(rows: Sequence[Row]) -> list[str]:
    """Which conditions cost more than the one that was judged: where intervals do not overlap."""
    judged = next((row for row in rows if row["condition"] == AS_JUDGED), None)
    others = [row for row in rows if row is not judged]
    if judged is None or not others:
        return []
    dearer = [row["condition"] for row in others if row["excess_low"] > judged["excess_high"]]
    if not dearer:
        said = f"In none of {len(others)} other conditions is the excess higher than as judged, beyond both intervals."
    else:
        said = (
            f"The excess is higher than as judged, beyond both intervals, in {len(dearer)} of {len(others)}: "
            f"{', '.join(dearer)}."
        )
    return [said, ""]


def with_section(page: str, part: str) -> str:
    """A page with its part replaced, or put at the end; an empty `part` leaves the page alone."""
    if not part:
        return page
    before, mark, rest = page.partition(BEGIN)
    after = rest.partition(END)[2].lstrip("\n") if mark else ""
    return before.rstrip("\n") + "\n\n" + part + (f"\n{after}" if after else "")


def section_of(page: str) -> str:
    """The part that a page has; empty where it has none."""
    _, mark, rest = page.partition(BEGIN)
    return f"{BEGIN}{rest.partition(END)[0]}{END}\n" if mark else ""
