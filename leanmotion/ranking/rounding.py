"""Figures for git: rounded to what a measurement can tell, so that another processor's run writes the same ones.

`metrics/*.json` and `metrics/plots/*.csv` are what `git diff` and `dvc metrics diff` compare. Another processor moves
features and weights by about 1e-6 of their size, and with them all digits of such files: what a setting or training
moved would drown. Artefacts under data/ keep all digits, and nothing is computed from what is rounded here.

A figure is rounded to the coarser of two places.

*The decimal place nearest a thousandth of the measure's null*, its null being what the same measure says of clips that
differ by chance alone: the original's clips of the same prompts under other seeds, on the same split, as many.

- FVD, also across seeds, and its interval: the FVD of these.
- KVD: the root mean square of theirs over half-samples (`resampling.kernel_null`), for it is unbiased: of either sign.
- Paired distance, motion measure: theirs.
- Excess: 1, since it counts in nulls. Cosine: 1, that of a unit that does nothing.

Why a thousandth: a null of tens of clips is itself known to a factor of two (the 90% interval of the embedded default's
is [3.8, 18.2] around 7.5), so nobody can act on less than a tenth of it. What a processor moves lies far below: with
features of norm x and D dimensions, errors of 1e-6 of each and N pairs at distance d, the mean of d^2 moves by about
2 d (1e-6 x sqrt(2 / D)) / sqrt(N). The embedded default has x = 50, D = 64, N = 48 and d = 7 between seeds: 2e-5, where
the null is 8.5 and its place 0.01. A closer pair moves less, in proportion to d. Measured there, between two processors
and numbers of threads: null FVD 3e-5, FVD of single blocks 7e-5 at most, KVD 8e-4 of a null of 47, cosines 1.5e-6.

*The fourth significant digit*: what lies far above its null, or has none (a loss, a norm of gradients), is known to a
share of itself. By the same estimate d^2 moves by 2e-6 (x / d) sqrt(2 / D N) of itself.

Counts (parameters, MACs, clips, blocks) are exact. A share of N clips moves by 1/N or not at all, which rounding noise
does not do: four digits, of its Wilson interval too. The tau of half-samples is a mean of signs. It jumps: two blocks
that differ by the noise of arithmetic alone change places in some half-samples, each time by 8 / (b (b - 1) R) for b
blocks and R resamples, 1e-4 for 21 and 200. Hence two decimals. Counts made from such signs (`tied_neighbours`,
`videos_to_settle`) and the order of such blocks can change as well, and then do in metrics: an order is what it is.

No rounding is without edges. A figure that noise moves by a share n of its place crosses one with probability n, and
then differs by one unit of its last place: by the above one figure in some hundreds near its null, fewer elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from leanmotion.pipeline.writing import write_text

UNIT = 1.0
"""The null of a cosine and of an excess."""
_DIGITS = 4


def rounded(value: Any, null: float | None = None) -> Any:
    """A figure as git keeps it; what is no float (a count, a name, None) stays as it is.

    Args:
        value: in the measure's unit.
        null: what the measure says of clips that differ by chance, in the same unit, of either sign. None, 0 or not
            finite: four significant digits alone.
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    if value == 0.0:
        return 0.0
    places = _DIGITS - 1 - Decimal(abs(value)).adjusted()
    if null is not None and math.isfinite(null) and null != 0.0:
        places = min(places, 3 - round(math.log10(abs(null))))
    # Once, at the coarser place: rounding twice would have edges of both. `+ 0.0` for no negative zero.
    return round(float(value), places) + 0.0


def rounded_row(row: Mapping[str, Any], names: Iterable[str], nulls: Mapping[str, float | None]) -> dict[str, Any]:
    """Of a row the named figures, each by its measure's null; None is left out.

    Args:
        row: of any table.
        names: columns; `fvd_low` and `fvd_high` have the null of `fvd`.
        nulls: measure -> null; another measure is rounded to four digits.
    """
    return {name: rounded(row[name], nulls.get(_measure(name))) for name in names if row[name] is not None}


def rounded_table(table: Any, nulls: Mapping[str, float | None]) -> pd.DataFrame:
    """A data frame whose columns of floats are rounded likewise; others stay as they are."""
    out = {
        name: [rounded(value, nulls.get(_measure(str(name)))) for value in column.tolist()]
        if column.dtype.kind == "f"
        else column
        for name, column in table.items()
    }
    return pd.DataFrame(out)


def evaluation_nulls(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Measure -> null on the split of a row of the `evaluation` table."""
    names = {"null": "null", "fvd": "null", "fvd_cross": "null"}
    names |= {measure: f"null_{measure}" for measure in ("kvd", "paired", "motion")}
    return {"excess": UNIT, **{measure: row.get(column) for measure, column in names.items()}}


def write_metrics(path: str | Path, figures: Mapping[str, Any]) -> None:
    """Write flat figures as JSON, a line each, atomically."""
    write_text(path, json.dumps(figures, indent=1) + "\n")


def _measure(name: str) -> str:
    return name.removesuffix("_low").removesuffix("_high")
