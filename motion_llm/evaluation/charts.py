"""Small charts as SVG text, for a page: no script, no library.

Colours come from the page's CSS (classes c0, c1, ...), so that they follow its dark mode. All text is escaped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 38

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """points: (x, y), left to right for lines. colour: the class c<colour>. kind: "line", "dots", "rings" or "area"."""

    points: Sequence[Point]
    colour: int
    kind: str = "line"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About `about` round numbers within [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def spelled(value: float) -> str:
    """A tick's text: 12,000, 0.25, 0.001."""
    return f"{value:,.0f}" if value == int(value) else f"{value:.6f}".rstrip("0")


class _Frame:
    """Axes with their ticks, and the map from data to picture coordinates."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], from_zero: bool):
        self.low_x, self.high_x = min(xs), max(xs)
        self.low_y, self.high_y = (min(0.0, *ys) if from_zero else min(ys)), max(ys)
        if self.high_x == self.low_x:
            self.low_x, self.high_x = self.low_x - 0.5, self.high_x + 0.5
        if self.high_y == self.low_y:
            self.high_y = self.low_y + 1
        self.high_y += 0.04 * (self.high_y - self.low_y)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low_x) / (self.high_x - self.low_x) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.low_y) / (self.high_y - self.low_y) * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_label: str, y_label: str) -> list[str]:
        parts = []
        for value in ticks(self.low_y, self.high_y):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                         f'<text class="tick" x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">'
                         f'{spelled(value)}</text>')
        for value in ticks(self.low_x, self.high_x):
            x = self.x(value)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
                         f'{spelled(value)}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}" '
                     f'y2="{HEIGHT - _BOTTOM}"/>')
        middle_x, middle_y = (_LEFT + WIDTH - _RIGHT) / 2, (_TOP + HEIGHT - _BOTTOM) / 2
        parts.append(f'<text class="label" x="{middle_x}" y="{HEIGHT - 5}" text-anchor="middle">'
                     f'{escape(x_label)}</text>')
        parts.append(f'<text class="label" x="14" y="{middle_y}" text-anchor="middle" '
                     f'transform="rotate(-90 14 {middle_y})">{escape(y_label)}</text>')
        return parts


def _svg(title: str, parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT, told: str = "") -> str:
    """told: what a screen reader says instead of the title."""
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(told or title)}">'
            f'<title>{escape(title)}</title>{"".join(parts)}</svg>')


def chart(title: str, series: Sequence[Series], x_label: str, y_label: str, from_zero: bool = True,
          diagonal: bool = False) -> str:
    """Lines, dots, rings and areas over two axes; diagonal: adds the line y = x. "" if there is no point."""
    points = [point for curve in series for point in curve.points]
    if not points:
        return ""
    frame = _Frame([x for x, _ in points], [y for _, y in points], from_zero)
    parts = frame.axes(x_label, y_label)
    if diagonal:
        low, high = max(frame.low_x, frame.low_y), min(frame.high_x, frame.high_y)
        if high > low:
            parts.append(f'<line class="guide" x1="{frame.x(low):.1f}" y1="{frame.y(low):.1f}" '
                         f'x2="{frame.x(high):.1f}" y2="{frame.y(high):.1f}"/>')
    for curve in series:
        placed = [(frame.x(x), frame.y(y)) for x, y in curve.points]
        if not placed:
            continue
        if curve.kind in ("dots", "rings"):
            radius, name = (2.6, "dot") if curve.kind == "dots" else (3.6, "ring")
            parts += [f'<circle class="{name} c{curve.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
                      for x, y in placed]
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        if curve.kind == "area":
            base = frame.y(frame.low_y)
            path += f"L{placed[-1][0]:.1f} {base:.1f}L{placed[0][0]:.1f} {base:.1f}Z"
        parts.append(f'<path class="{curve.kind} c{curve.colour}" d="{path}"/>')
        if len(placed) == 1:  # a line of one point is invisible
            parts.append(f'<circle class="dot c{curve.colour}" cx="{placed[0][0]:.1f}" cy="{placed[0][1]:.1f}" r="3"/>')
    return _svg(title, parts)


@dataclass(frozen=True)
class Mark:
    """A row of a dot plot. low, high: the ends of its interval, or None. shown: its value as text."""

    name: str
    value: float
    low: float | None
    high: float | None
    shown: str
    colour: int


def dot_plot(title: str, marks: Sequence[Mark], from_zero: bool = True, names: int = 66) -> str:
    """A row for each mark: its name, a dot at its value, its interval as a line. "" without marks. names: the width of
    the names."""
    if not marks:
        return ""
    width, left, right, step = 234 + names, names, 42, 23
    ends = [value for mark in marks for value in (mark.value, mark.low, mark.high) if value is not None]
    low, high = (min(0.0, *ends) if from_zero else min(ends)), max(ends)
    span = (high - low) or 1.0
    height = step * len(marks) + 22

    def place(value: float) -> float:
        return left + (value - low) / span * (width - left - right - 6)

    parts = []
    for value in ticks(low, high, 4):
        x = place(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{height - 18}"/><text class="tick" '
                     f'x="{x:.1f}" y="{height - 5}" text-anchor="middle">{spelled(value)}</text>')
    for row, mark in enumerate(marks):
        y = step * row + 14
        strong = " strong" if row == 0 else ""
        parts.append(f'<text class="label{strong}" x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(mark.name)}'
                     f'</text><text class="label{strong}" x="{width}" y="{y + 4}" text-anchor="end">'
                     f'{escape(mark.shown)}</text>')
        if mark.low is not None and mark.high is not None:
            parts.append(f'<line class="interval c{mark.colour}" x1="{place(mark.low):.1f}" '
                         f'x2="{place(mark.high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot c{mark.colour}" cx="{place(mark.value):.1f}" cy="{y}" r="4.5"/>')
    told = f"{title}: " + ", ".join(f"{mark.name} {mark.shown}" for mark in marks)
    return _svg(title, parts, width, height, told)


def code_strip(codes: Sequence[int], longest: int, codebook_size: int) -> str:
    """A block for each code, in a colour of its own; runs of one code are one block. longest: codes of the whole width.
    """
    blocks, start = [], 0
    while start < len(codes):
        end = next((i for i in range(start, len(codes)) if codes[i] != codes[start]), len(codes))
        hue, light = 360 * codes[start] / max(1, codebook_size), 46 + 9 * (codes[start] % 3)
        blocks.append(f'<rect x="{start}" y="0" width="{end - start}" height="1" fill="hsl({hue:.0f} 62% {light}%)"/>')
        start = end
    return (f'<svg class="strip" viewBox="0 0 {longest} 1" preserveAspectRatio="none" aria-hidden="true">'
            f'{"".join(blocks)}</svg>')


def legend(names: Sequence[tuple[str, int]]) -> str:
    """Names with their colours."""
    return '<p class="legend">' + "".join(
        f'<span><i class="key c{colour}"></i>{escape(name)}</span>' for name, colour in names) + "</p>"
