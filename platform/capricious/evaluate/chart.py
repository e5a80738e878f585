"""Line charts as drawings within a page: SVG, in the page's own colours, with intervals as bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 44

Place = Callable[[float, float], tuple[float, float]]
"""From values of x and y to where they lie in the drawing."""


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: in the legend.
        points: (x, y, low, high), ascending in x; low and high may be None.
        colour: 0…5, of the page's series colours.
        style: "solid", "heavy" for what counts most, "dashed" for what is a baseline.
    """

    name: str
    points: Sequence[tuple[float, float, float | None, float | None]]
    colour: int
    style: Literal["solid", "heavy", "dashed"] = "solid"


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its label, its range, and where it has ticks, each with a text."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


def line_chart(caption: str, x: Axis, y: Axis, series: Sequence[Series], *, ideal: bool = False, note: str = "") -> str:
    """Returns a figure with a legend.

    Args:
        ideal: also draw the line y = x.
        note: remark under it.
    """

    def at(px: float, py: float) -> tuple[float, float]:
        across = _LEFT + (px - x.low) / (x.high - x.low) * (WIDTH - _LEFT - _RIGHT)
        py = min(max(py, y.low), y.high)
        return across, HEIGHT - _BOTTOM - (py - y.low) / (y.high - y.low) * (HEIGHT - _TOP - _BOTTOM)

    drawn = [_grid(x, y, at)]
    if ideal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        (x1, y1), (x2, y2) = at(low, low), at(high, high)
        drawn.append(f'<line class="ideal" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    drawn += [_line(one, at) for one in series if one.points]
    legend = "".join(
        f'<span class="series-{one.colour}"><i class="{one.style}"></i>{escape(one.name)}</span>' for one in series
    )
    alt = escape(f"{caption}. {y.label} over {x.label}. {note}", quote=True)
    return (
        f'<figure class="chart"><figcaption>{escape(caption)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{alt}">{"".join(drawn)}</svg>'
        f'<p class="legend">{legend}</p><p class="note">{escape(note)}</p></figure>'
    )


def _grid(x: Axis, y: Axis, at: Place) -> str:
    parts = []
    for value, text in y.ticks:
        (x1, y1), (x2, _) = at(x.low, value), at(x.high, value)
        parts.append(f'<line class="axis" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y1:.1f}"/>')
        parts.append(f'<text x="{x1 - 7:.1f}" y="{y1 + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x.ticks:
        x1, y1 = at(value, y.low)
        parts.append(f'<text x="{x1:.1f}" y="{y1 + 17:.1f}" text-anchor="middle">{escape(text)}</text>')
    middle = _LEFT + (WIDTH - _LEFT - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    up = _TOP + (HEIGHT - _TOP - _BOTTOM) / 2
    parts.append(f'<text transform="translate(12 {up:.0f}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>')
    return "".join(parts)


def _line(series: Series, at: Place) -> str:
    middle = [at(px, py) for px, py, _, _ in series.points]
    parts = []
    known = [(px, low, high) for px, _, low, high in series.points if low is not None and high is not None]
    if len(known) > 1:
        edge = [at(px, high) for px, _, high in known] + [at(px, low) for px, low, _ in reversed(known)]
        parts.append(f'<polygon class="band" points="{_points(edge)}"/>')
    parts.append(f'<polyline class="line {series.style}" points="{_points(middle)}"/>')
    if series.style != "dashed":
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>' for px, py in middle]
    return f'<g class="series-{series.colour}">{"".join(parts)}</g>'


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
