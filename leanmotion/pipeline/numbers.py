"""How numbers are written on the page: short for eyes, and whole in the markup, so that each can be traced."""

import math
from typing import Any

from markupsafe import Markup

NOTHING = "—"


def missing(value: Any) -> bool:
    """None or NaN: not measured, or not defined."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def short(value: Any, digits: int = 3) -> str:
    """Three significant digits; rounding noise around zero is zero."""
    if missing(value):
        return NOTHING
    value = float(value)
    if abs(value) < 1e-9:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def amount(value: Any) -> str:
    """A count of parameters or MACs with its prefix: `453 M`."""
    if missing(value):
        return NOTHING
    value = float(value)
    for limit, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {sign}"
    return f"{value:.0f}"


def percent(value: Any) -> str:
    """A share as per cent, one decimal."""
    return NOTHING if missing(value) else f"{float(value):.1%}"


def milli(value: Any) -> str:
    """Seconds as a number of milliseconds."""
    return NOTHING if missing(value) else short(float(value) * 1e3)


def data(value: Any, text: str | None = None) -> Markup:
    """A number as `<data value="…">text</data>`: the artefact's own digits stay readable by machine."""
    if missing(value):
        return Markup(NOTHING)
    exact = repr(float(value)) if isinstance(value, float) or hasattr(value, "dtype") else str(value)
    return Markup('<data value="{}">{}</data>').format(exact, short(value) if text is None else text)


def within(value: Any, low: Any, high: Any, write: Any = short) -> Markup:
    """A number with its interval: `12.3 [10, 15]`."""
    if missing(low) or missing(high):
        return data(value, write(value))
    return Markup('{} <span class="interval">[{}, {}]</span>').format(
        data(value, write(value)), data(low, write(low)), data(high, write(high))
    )


def listed(names: list[str], most: int = 30) -> str:
    """`a, b and c`; long lists end in how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
