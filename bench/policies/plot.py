"""Plots as SVG text: one panel a shape, cost across, what it buys down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT, _MARGIN = 300, 220, 44
_COLUMNS = 3
_COLOURS = {"ll-resume": "#888888", "paper": "#c0392b", "hpa": "#d68910", "turboserve": "#1f618d"}


_FONT = 'font-family="sans-serif" font-size="11"'


class Point(NamedTuple):
    """`cost`: GPU-seconds against the bound's."""

    shape: str
    policy: str
    cost: float
    value: float


def frontiers(points: Sequence[Point], title: str) -> str:
    shapes = list(dict.fromkeys(point.shape for point in points))
    rows = -(-len(shapes) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT + 40
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {_FONT}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *(
            f'<text x="{10 + 120 * n}" y="16" fill="{colour}">● {policy}</text>'
            for n, (policy, colour) in enumerate(_COLOURS.items())
        ),
    ]
    for number, shape in enumerate(shapes):
        own = [point for point in points if point.shape == shape]
        left, top = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT + 24
        body.append(f'<g transform="translate({left},{top})">{_panel(own, shape, title)}</g>')
    return "\n".join([*body, "</svg>\n"])


def _panel(points: Sequence[Point], shape: str, title: str) -> str:
    most_cost = max(point.cost for point in points) * 1.05
    most = max(point.value for point in points) * 1.08 or 1.0

    def x(cost: float) -> float:
        return _MARGIN + (_WIDTH - _MARGIN - 12) * (cost - 0.8) / (most_cost - 0.8)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - (_HEIGHT - _MARGIN - 24) * value / most

    right, floor = _WIDTH - 12, _HEIGHT - _MARGIN
    marks = [
        f'<circle cx="{x(p.cost):.1f}" cy="{y(p.value):.1f}" r="3" fill="{_COLOURS[p.policy]}"/>'
        for p in points
    ]
    ticks = [
        *(
            f'<text x="{x(c):.0f}" y="{floor + 14}" text-anchor="middle">{c:g}</text>'
            for c in _ticks(0.8, most_cost)
        ),
        *(
            f'<text x="{_MARGIN - 4}" y="{y(v) + 4:.0f}" text-anchor="end">{v:g}</text>'
            for v in _ticks(0.0, most)
        ),
    ]
    return "".join(
        [
            f'<path d="M{_MARGIN} 24V{floor}H{right}" fill="none" stroke="black"/>',
            f'<path d="M{x(1.0):.1f} 24V{floor}" stroke="#999" stroke-dasharray="3"/>',
            f'<text x="{_MARGIN + 6}" y="20" font-weight="bold">{shape}: {title}</text>',
            f'<text x="{right}" y="{floor + 30}" text-anchor="end">GPU-seconds ÷ bound</text>',
            *ticks,
            *marks,
        ]
    )


def _ticks(low: float, high: float) -> list[float]:
    """Some four round numbers between the two."""
    rough = (high - low) / 4
    size = 10.0 ** len(str(int(rough))) / 10 if rough >= 1 else 0.1
    step = next((m * size for m in (1, 2, 5, 10, 20) if m * size >= rough), rough)
    first = -(-low // step) * step
    return [round(first + n * step, 6) for n in range(12) if first + n * step <= high]
