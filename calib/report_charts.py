"""Charts of the report as SVG, whose colours come from the page."""

import math
from collections.abc import Callable, Sequence
from html import escape

_WIDTH, _HEIGHT = 360, 170
_LEFT, _TOP, _BOTTOM = 46, 8, 18
_MOST_LABELS = 6


def log_bars(values: Sequence[tuple[str, float]], words: Callable[[float], str], title: str) -> str:
    """A bar for each named value in order, on a scale of powers of ten; a value of 0 has none.

    Args:
        values: Name and value, 0 or more, at least one of them above 0.
        words: A value as text, for the axis and for who points at a bar.
        title: For who cannot see the chart.
    """
    logs = [math.log10(value) for _, value in values if value > 0]
    # a power of ten is a bar as well, so the axis begins below it
    low, high = math.floor(min(logs) - 1e-9), math.ceil(max(logs))
    step = (_WIDTH - _LEFT) / len(values)
    bars = [
        _bar(_LEFT + place * step, step, _down(math.log10(value), low, high), f"{name}: {words(value)}")
        for place, (name, value) in enumerate(values)
        if value > 0
    ]
    every = math.ceil((high - low + 1) / _MOST_LABELS)
    lines = [_line(_down(power, low, high), words(10.0**power)) for power in range(low, high + 1, every)]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{escape(title)}</title>{"".join(lines)}'
        f'{"".join(bars)}<text x="{_LEFT}" y="{_HEIGHT - 4}">input</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">deepest</text></svg>'
    )


def share_bar(share: float, kept: bool) -> str:
    """A bar across a table's cell, as long as the share of the cell's width, 0..1."""
    return f'<span class="bar{" kept" if kept else ""}" style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></span>'


def _bar(left: float, step: float, top: float, words: str) -> str:
    height = max(_HEIGHT - _BOTTOM - top, 1.0)
    return (
        f'<rect x="{left:.2f}" y="{top:.1f}" width="{max(step - 0.8, 0.5 * step):.2f}" height="{height:.1f}">'
        f"<title>{escape(words)}</title></rect>"
    )


def _line(y: float, words: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escape(words)}</text>'
    )


def _down(power: float, low: int, high: int) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (power - low) / (high - low)
