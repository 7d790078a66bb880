"""Small SVG charts by hand: a few shapes, classes for colours (so that dark mode works), and the same bytes each time.

Each chart is narrow (about a phone's width), so that its text stays readable; the page lays several side by side.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from leanmotion.pipeline.numbers import short

WIDTH = 380
Number = float | int
Point = tuple[Number, Number]
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def steep(values: Iterable[Number | None]) -> bool:
    """Whether values need a logarithmic axis: none is negative but for rounding, and they span two decades."""
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    above = [v for v in known if v > 1e-9]
    return bool(above) and min(known) > -1e-9 and max(above) > 100 * min(above)


def tick(value: Number) -> str:
    """A value at an axis; far from 1 as a power of ten, where it is one."""
    power = round(math.log10(value)) if value > 0 else 0
    if abs(power) > 3 and math.isclose(value, 10.0**power):
        return f"10{str(power).translate(_RAISED)}"
    return short(value)


@dataclass
class Axis:
    """A numeric axis from `low` to `high`, its title and how its ticks are written."""

    title: str
    low: Number
    high: Number
    log: bool = False
    write: Callable[[Number], str] = tick

    @classmethod
    def over(
        cls,
        title: str,
        values: Iterable[Number | None],
        *,
        zero: bool = False,
        log: bool = False,
        write: Callable[[Number], str] = tick,
    ) -> "Axis":
        """An axis that holds all values with a little room; `zero`: from zero where nothing is below it."""
        known = [float(v) for v in values if v is not None and math.isfinite(v)]
        if log:  # what rounding leaves of zero has its place at the low end
            least = 1e-13 * max(known, default=0.0)
            known = [v for v in known if v > max(least, 0.0)]
        low, high = (min(known), max(known)) if known else (0.1 if log else 0.0, 1.0)
        if log:
            room = max((high / low) ** 0.04, 1.1)
            return cls(title, low / room, high * room, True, write)
        low = -0.0 if abs(low) < 1e-9 else low
        if zero and low >= 0:
            return cls(title, 0.0, high * 1.06 if high > 1e-9 else 1.0, False, write)
        room = 0.06 * (high - low) if high - low > 1e-9 else max(abs(high) * 0.1, 0.5)
        return cls(title, low - room, high + room, False, write)

    def place(self, value: Number) -> Number:
        """0 at the low end, 1 at the high one."""
        if self.log:
            span = math.log(self.high / self.low)
            return math.log(max(value, self.low) / self.low) / span
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside, at most about `most`."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
                if len(found) <= most + 1:
                    break
            return found[:: max(1, -(-len(found) // (most + 1)))] or [self.low * 1.1]
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass
class Chart:
    """A plane with two axes to draw in. `y` is numeric, or a list of rows where `rows` is given.

    `right`: room for what is written beside rows, at their right end. `striped`: every other row has a pale ground.
    """

    title: str
    x: Axis
    y: Axis | None = None
    rows: Sequence[str] = ()
    height: int = 250
    left: int = 62
    row_height: int = 18
    right: int = 12
    top: int = 8
    striped: bool = False
    parts: list[Markup] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.y is None:
            self.left = 30 + round(6.4 * max((len(row) for row in self.rows), default=4))
            self.height = self.top + 38 + self.row_height * len(self.rows)

    @property
    def _plane(self) -> tuple[float, float, float, float]:
        return float(self.left), float(self.top), float(WIDTH - self.left - self.right), self.height - self.top - 38.0

    def px(self, value: Number) -> Number:
        """Horizontal place of an x value."""
        left, _, width, _ = self._plane
        return left + width * min(max(self.x.place(value), -0.02), 1.02)

    def py(self, value: Number) -> Number:
        """Vertical place of a y value, or the middle of row number `value`."""
        _, top, _, height = self._plane
        if self.y is None:
            return top + self.row_height * (value + 0.5)
        return top + height * (1 - min(max(self.y.place(value), -0.02), 1.02))

    def line(self, points: Sequence[Point], style: str, mark: str = "") -> None:
        """Straight pieces through the points; `mark`: `circle` or `square` on each."""
        path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
        self.parts.append(Markup('<polyline class="line {}" points="{}"/>').format(style, path))
        for x, y in points if mark else ():
            self.mark(x, y, style, mark)

    def mark(self, x: Number, y: Number, style: str, shape: str = "circle", label: str = "") -> None:
        """A marker; `label` shows where a pointer rests on it."""
        at, to = self.px(x), self.py(y)
        tip = Markup("<title>{}</title>").format(label) if label else Markup("")
        if shape == "square":
            body = Markup('<rect class="mark {}" x="{:.1f}" y="{:.1f}" width="7" height="7">{}</rect>')
            self.parts.append(body.format(style, at - 3.5, to - 3.5, tip))
        elif shape == "triangle":
            path = f"M{at:.1f} {to - 5:.1f}l4.6 8.2h-9.2z"
            self.parts.append(Markup('<path class="mark {}" d="{}">{}</path>').format(style, path, tip))
        else:
            body = Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="3.8">{}</circle>')
            self.parts.append(body.format(style, at, to, tip))

    def band(self, points: Sequence[tuple[Number, Number, Number]], style: str) -> None:
        """The area between low and high along x."""
        there = [f"{self.px(x):.1f},{self.py(high):.1f}" for x, _, high in points]
        back = [f"{self.px(x):.1f},{self.py(low):.1f}" for x, low, _ in reversed(points)]
        self.parts.append(Markup('<polygon class="band {}" points="{}"/>').format(style, " ".join(there + back)))

    def span(self, low: Number, high: Number, row: Number, style: str) -> None:
        """An interval along x in a row (or at height `row`)."""
        y = self.py(row)
        body = Markup('<line class="span {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
        self.parts.append(body.format(style, self.px(low), self.px(high), y, y))

    def bar(self, value: Number, row: Number, style: str, thick: float = 0.62) -> None:
        """A bar from zero in a row, `thick` of its height."""
        zero, end = self.px(max(0.0, self.x.low)), self.px(value)
        body = Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
        high = self.row_height * thick
        self.parts.append(body.format(style, min(zero, end), self.py(row) - high / 2, abs(end - zero), high))

    def beside(self, row: Number, words: str) -> None:
        """Words at the right end of a row."""
        self.parts.append(text(WIDTH - 4, self.py(row) + 4, words, "end", "small"))

    def label(self, x: Number, y: Number, words: str, anchor: str = "start") -> None:
        """Words near a point: below it to the right, or (`end`) above it to the left."""
        right, down = {"start": (5, 13), "end": (-6, -5)}[anchor]
        self.parts.append(text(self.px(x) + right, self.py(y) + down, words, anchor, "said"))

    def across(self, value: Number, style: str, label: str, below: bool = False, left_end: bool = False) -> None:
        """A line at an x value (charts of rows), or at a y value with its label above or below it, at either end."""
        left, top, width, height = self._plane
        if self.y is None:
            x = self.px(value)
            ends = (x, x, top, top + height)
        else:
            y = self.py(value)
            ends = (left, left + width, y, y)
        body = Markup('<line class="rule {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"><title>{}</title></line>')
        self.parts.append(body.format(style, *ends, label))
        if self.y is None:
            # Above the plane, which `top` has made room for.
            anchor = "end" if self.x.place(value) > 0.7 else "start" if self.x.place(value) < 0.3 else "middle"
            self.parts.append(text(ends[0], top - 5, label, anchor, f"said {style}"))
            return
        at = ends[2] + 11 if below else ends[2] - 4
        x, anchor = (left + 3, "start") if left_end else (left + width - 2, "end")
        self.parts.append(text(x, at, label, anchor, f"said {style}"))

    def svg(self) -> Markup:
        """The whole chart as an `<svg>` that says its title to screen readers."""
        left, top, width, height = self._plane
        bottom = top + height
        out = [
            Markup('<rect class="stripe" x="0" y="{:.1f}" width="{}" height="{}"/>').format(
                self.py(row) - self.row_height / 2, WIDTH, self.row_height
            )
            for row in range(0, len(self.rows) if self.striped else 0, 2)
        ]
        out += [Markup('<path class="axis" d="M{:.1f} {:.1f}V{:.1f}H{:.1f}"/>').format(left, top, bottom, left + width)]
        for tick in self.x.ticks():
            x = self.px(tick)
            out.append(
                Markup('<path class="grid" d="M{:.1f} {:.1f}V{:.1f}"/>').format(x, top, bottom)
                + text(x, bottom + 14, self.x.write(tick), "middle")
            )
        if self.y is None:
            out += [text(left - 6, self.py(i) + 4, row, "end") for i, row in enumerate(self.rows)]
        else:
            for tick in self.y.ticks():
                y = self.py(tick)
                out.append(
                    Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>').format(left, y, left + width)
                    + text(left - 6, y + 4, self.y.write(tick), "end")
                )
            turn = Markup(
                '<text class="title" text-anchor="middle" transform="translate(12 {:.1f}) rotate(-90)">{}</text>'
            )
            out.append(turn.format(top + height / 2, self.y.title))
        # A long title below a narrow plane would run out of the chart.
        middle = min(left + width / 2, WIDTH - 3.3 * len(self.x.title))
        out.append(text(middle, self.height - 6, self.x.title, "middle", "title"))
        return frame(self.title, WIDTH, self.height, [*out, *self.parts])


def text(x: Number, y: Number, words: str, anchor: str = "start", style: str = "") -> Markup:
    """A `<text>`."""
    body = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return body.format(style, x, y, anchor, words)


def frame(title: str, width: Number, height: Number, parts: Iterable[Markup], style: str = "") -> Markup:
    """An `<svg>` with a name for screen readers."""
    body = Markup(
        '<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" style="max-width:{:.0f}px" role="img" aria-label="{}">'
        "{}</svg>"
    )
    return body.format(style, width, height, 1.2 * width, title, Markup("").join(parts))


def heat(share: Number) -> tuple[str, str]:
    """Fill and text colour for a share of 0 (pale) to 1 (dark); readable on light and dark pages alike."""
    stops = [(247, 244, 228), (250, 213, 139), (244, 143, 84), (203, 61, 76), (104, 20, 82)]
    at = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(at), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (at - low)) for a, b in zip(stops[low], stops[low + 1], strict=True))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return f"#{red:02x}{green:02x}{blue:02x}", "#1b1b1f" if light else "#ffffff"


def legend(entries: Sequence[tuple[str, str, str]]) -> Markup:
    """A legend of (style, shape, words); shapes: circle, square, triangle, line, span, band, rule, bar."""
    out = []
    for style, shape, words in entries:
        if shape in {"line", "rule", "span"}:
            body = Markup('<line class="{} {}" x1="0" x2="22" y1="6" y2="6"/>').format(shape, style)
        elif shape in {"band", "bar"}:
            body = Markup('<rect class="{} {}" x="1" y="1" width="20" height="10"/>').format(shape, style)
        elif shape == "triangle":
            body = Markup('<path class="mark {}" d="M11 1l5 9h-10z"/>').format(style)
        elif shape == "square":
            body = Markup('<rect class="mark {}" x="7" y="2" width="8" height="8"/>').format(style)
        else:
            body = Markup('<circle class="mark {}" cx="11" cy="6" r="4"/>').format(style)
        swatch = Markup('<svg class="swatch" viewBox="0 0 22 12" aria-hidden="true">{}</svg>').format(body)
        out.append(Markup("<span>{}{}</span>").format(swatch, escape(words)))
    return Markup('<p class="legend">{}</p>').format(Markup(" ").join(out))
