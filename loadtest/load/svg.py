"""Plots as inline SVG: lines, dots and stacked areas, on linear, logarithmic and percentile axes.

Colours and sizes are the page's (CSS classes c0 to c7, `axis`, `grid`), so that a plot follows light and dark. Every
plot has a size of WIDTH x HEIGHT units and scales with its column; it is drawn small, so that its text is readable on a
phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

WIDTH: Final = 440
HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 36
COLOURS: Final = 8
MAX_POINTS_NAMED: Final = 400
"""Points that tell their values under the pointer, in one plot; with more of them none does."""

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """How values lie along an axis: `place` maps a value to any number, linearly drawn; ticks are (value, text)."""

    label: str
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    low: float
    high: float

    def share(self, value: float) -> float:
        """0 at the axis' low end, 1 at its high one; what lies beyond is put at the end."""
        low, high = self.place(self.low), self.place(self.high)
        return min(max((self.place(value) - low) / (high - low), 0.0), 1.0) if high > low else 0.5


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; None leaves a gap. dots: only the points."""

    name: str
    ys: Values
    colour: int
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """What one plot shows. marks, level: values of x, and of y, at which a line stands, with a word for it."""

    title: str
    x: Axis
    y: Axis
    xs: Sequence[float]
    lines: Sequence[Line]
    marks: Sequence[tuple[float, str]] = ()
    level: tuple[float, str] | None = None
    note: str = ""
    stacked: bool = False
    xs_of: dict[str, Sequence[float]] = field(default_factory=dict)  # of lines that have others than `xs`


def linear(label: str, values: Values, *, from_zero: bool = True) -> Axis:
    """An axis over all values, with ticks at round ones."""
    known = [value for value in values if value is not None]
    low = min([0.0, *known]) if from_zero else min(known, default=0.0)
    high = max(known, default=1.0)
    if high <= low:
        high = low + 1.0
    step = _round_step((high - low) / 4)
    ticks = [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]
    low, high = (min(low, ticks[0]) if from_zero else low), max(high, ticks[-1]) if from_zero else high
    return Axis(label, float, [(tick, _number(tick)) for tick in ticks if low <= tick <= high], low, high)


def logarithmic(label: str, values: Values) -> Axis:
    """An axis over all values above 0, with a tick at each power of ten, and at 2 and 5 times it if there are few."""
    known = [value for value in values if value is not None and value > 0] or [1.0]
    powers = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
    ends = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    low = max([end for end in ends if end <= min(known)], default=ends[0])
    high = min([end for end in ends if end >= max(known) and end > low], default=10 * low)
    ticks = [tick for tick in ends if low <= tick <= high]
    if len(ticks) > 6:
        ticks = [10.0**power for power in powers if low <= 10.0**power <= high]
    return Axis(label, math.log10, [(tick, _number(tick)) for tick in ticks], low, high)


def percentiles(label: str, highest: float) -> Axis:
    """An axis of percentiles on which each further nine is as far away as the one before."""
    ticks = [tick for tick in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999) if tick <= highest]
    return Axis(label, nines, [(tick, f"{tick:g}") for tick in ticks], 0.0, max(highest, 50.0))


def nines(percentile: float) -> float:
    """How many nines a percentile has: 1 for 90, 2 for 99."""
    return -math.log10(max(1 - percentile / 100, 1e-9))


def figure(plot: Plot) -> str:
    """The plot with its title, its legend and its note, as an HTML figure."""
    legend = "".join(
        f'<li class="c{line.colour % COLOURS}{" dashed" if line.dashed else ""}">{escape(line.name)}</li>'
        for line in plot.lines
    )
    note = f"<p>{escape(plot.note)}</p>" if plot.note else ""
    return (
        f"<figure><figcaption>{escape(plot.title)}</figcaption><ul class=legend>{legend}</ul>{svg(plot)}{note}</figure>"
    )


def svg(plot: Plot) -> str:
    """The plot alone."""
    body = [_grid(plot)]
    body += _areas(plot) if plot.stacked else [_line(plot, line) for line in plot.lines]
    for at, word in plot.marks:
        x = _x(plot, at)
        body.append(f'<path class="mark" d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
        beside = f'x="{x - 3:.1f}" text-anchor="end"' if plot.x.share(at) > 0.8 else f'x="{x + 3:.1f}"'
        body.append(f'<text class="axis" {beside} y="{_TOP + 10}">{escape(word)}</text>')
    if plot.level is not None:
        at, word = plot.level
        y = _y(plot, at)
        body.append(f'<path class="mark" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        body.append(f'<text class="axis" x="{_LEFT + 3}" y="{y - 3:.1f}">{escape(word)}</text>')
    label = escape(f"{plot.title}: {', '.join(line.name for line in plot.lines)}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'


def _x(plot: Plot, value: float) -> float:
    return _LEFT + plot.x.share(value) * (WIDTH - _LEFT - _RIGHT)


def _y(plot: Plot, value: float) -> float:
    return HEIGHT - _BOTTOM - plot.y.share(value) * (HEIGHT - _TOP - _BOTTOM)


def _grid(plot: Plot) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for value, text in plot.y.ticks:
        y = _y(plot, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in plot.x.ticks:
        x = _x(plot, value)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{escape(text)}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(plot.x.label)}</text>')
    turned = f'transform="rotate(-90 11 {bottom / 2:.0f})"'
    parts.append(
        f'<text class="axis" x="11" y="{bottom / 2:.0f}" text-anchor="middle" {turned}>{escape(plot.y.label)}</text>'
    )
    return "".join(parts)


def _line(plot: Plot, line: Line) -> str:
    xs = plot.xs_of.get(line.name, plot.xs)
    points = [None if y is None else (_x(plot, x), _y(plot, y)) for x, y in zip(xs, line.ys, strict=True)]
    colour = f"c{line.colour % COLOURS}"
    parts = []
    if not line.dots:
        dashed = " dashed" if line.dashed else ""
        parts.append(f'<path class="line {colour}{dashed}" d="{_path(points)}"/>')
    drawn = sum(len(other.ys) for other in plot.lines) <= MAX_POINTS_NAMED
    for x, y, point in zip(xs, line.ys, points, strict=True):
        lonely = line.dots or sum(other is not None for other in points) == 1
        if point is not None and y is not None and (drawn or lonely):
            kind = "dot" if lonely else "hint"
            named = escape(f"{line.name}: {_number(y)} at {_number(x)}")
            parts.append(
                f'<circle class="{kind} {colour}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="4">'
                f"<title>{named}</title></circle>"
            )
    return "".join(parts)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    steps, down = [], False
    for point in points:
        if point is not None:
            steps.append(f"{'L' if down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        down = point is not None
    return "".join(steps)


def _areas(plot: Plot) -> list[str]:
    """Each line's values on top of those before it; None counts as nothing."""
    base = [0.0] * len(plot.xs)
    parts = []
    for line in plot.lines:
        top = [under + (value or 0.0) for under, value in zip(base, line.ys, strict=True)]
        forth = [(_x(plot, x), _y(plot, y)) for x, y in zip(plot.xs, top, strict=True)]
        back = [(_x(plot, x), _y(plot, y)) for x, y in zip(plot.xs, base, strict=True)]
        named = f"<title>{escape(line.name)}</title>"
        outline = f"{_path([*forth, *reversed(back)])}Z"
        parts.append(f'<path class="area c{line.colour % COLOURS}" d="{outline}">{named}</path>')
        base = top
    return parts


def _round_step(least: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999999)


def _number(value: float) -> str:
    """Short, for an axis: 1.5k, 20M, 0.05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9999:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
