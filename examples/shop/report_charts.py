"""Charts of the report, as SVG whose colours come from the page."""

import math
from collections.abc import Sequence

import numpy as np
from report_html import Html, tag

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 52, 16, 24
BAR_WIDTH, BAR_STEP, VALUE_WIDTH, LETTER_WIDTH = 160, 30, 82, 6.1


def line_chart(values: Sequence[float], *, title: str) -> Html:
    """Return the course of a value over the epochs, its last value written out."""
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    last = len(values)
    points = [(_across(place + 1, 1, max(last, 2)), _down(value, low, high)) for place, value in enumerate(values)]
    course = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    end_x, end_y = points[-1]
    return _figure(
        title,
        *_grid(ticks, low, high),
        *(_label(_across(epoch, 1, max(last, 2)), HEIGHT - 6, str(epoch)) for epoch in sorted({1, last})),
        _label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "epoch") if last > 2 else Html(""),
        tag("path", d=course, class_="curve"),
        tag("circle", cx=f"{end_x:.1f}", cy=f"{end_y:.1f}", r=3.5, class_="dot"),
        tag("text", f"{values[-1]:.3g}", x=f"{end_x + 7:.1f}", y=f"{end_y + 4:.1f}", class_="strong"),
    )


def bar_chart(bars: Sequence[tuple[str, float, str, str]], *, title: str) -> Html:
    """Return horizontal bars from (name, value, text, colour class); the axis begins at zero."""
    full = max((value for _, value, _, _ in bars), default=0) or 1
    left = 14 + LETTER_WIDTH * max((len(name) for name, *_ in bars), default=0)
    lines = []
    for place, (name, value, text, colour) in enumerate(bars):
        top, length = place * BAR_STEP, max(1, BAR_WIDTH * value / full)
        lines += [
            tag("text", name, x=f"{left - 10:.1f}", y=top + 19, text_anchor="end"),
            tag("rect", x=f"{left:.1f}", y=top + 5, width=f"{length:.1f}", height=20, rx=3, class_=colour),
            tag("text", text, x=f"{left + length + 7:.1f}", y=top + 19, class_="strong"),
        ]
    box = f"0 0 {left + BAR_WIDTH + VALUE_WIDTH:.0f} {BAR_STEP * len(bars)}"
    return tag("svg", tag("title", title), *lines, viewBox=box, class_="wide", role="img")


def histogram(right: Sequence[float], wrong: Sequence[float], *, threshold: float | None, title: str) -> Html:
    """Return how often the similarities of right and of wrong references occur, and where `match` begins."""
    known = [*right, *wrong, *([] if threshold is None else [threshold])]
    low, high = math.floor(min(known) * 20) / 20, max(math.ceil(max(known) * 20) / 20, min(known) + 0.05)
    edges = np.linspace(low, high, 29)
    counts = {name: np.histogram(values, edges)[0] for name, values in (("good", right), ("bad", wrong))}
    top = max(1, *(int(count.max()) for count in counts.values()))
    ticks = nice_ticks(0, top)
    bars = [
        tag(
            "rect",
            x=f"{_across(edges[place], low, high):.1f}",
            y=f"{_down(count, 0, ticks[-1]):.1f}",
            width=f"{(WIDTH - LEFT - RIGHT) / (len(edges) - 1) - 0.8:.1f}",
            height=f"{HEIGHT - BOTTOM - _down(count, 0, ticks[-1]):.1f}",
            class_=f"f-{name} half",
        )
        for name, row in counts.items()
        for place, count in enumerate(row)
        if count
    ]
    marks = [] if threshold is None else _limit(_across(threshold, low, high), f"threshold {threshold:.3f}")
    values = [_label(_across(value, low, high), HEIGHT - 6, f"{value:.2g}") for value in nice_ticks(low, high)[1:-1]]
    values.append(tag("text", "similarity", x=WIDTH - RIGHT + 4, y=HEIGHT - 6))
    return _figure(title, *_grid(ticks, 0, ticks[-1]), *bars, *marks, *values, class_="wide")


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return round values that enclose low and high, about as many as wanted."""
    span = max(high - low, abs(high) * 1e-3, 1e-6)
    rough = span / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda value: abs(value - rough))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, max(last, first + 1) + 1)]


def _figure(title: str, *parts: Html, class_: str | None = None) -> Html:
    return tag("svg", tag("title", title), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_=class_)


def _grid(ticks: Sequence[float], low: float, high: float) -> list[Html]:
    lines = []
    for value in ticks:
        y = f"{_down(value, low, high):.1f}"
        lines += [
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"),
            tag("text", f"{value:g}", x=LEFT - 7, y=float(y) + 4, text_anchor="end"),
        ]
    return lines


def _limit(x: float, text: str) -> list[Html]:
    left = x > WIDTH / 2
    return [
        tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=TOP - 2, y2=HEIGHT - BOTTOM, class_="limit"),
        tag("text", text, x=f"{x - 5 if left else x + 5:.1f}", y=TOP - 5, text_anchor="end" if left else "start"),
    ]


def _label(x: float, y: float, text: str) -> Html:
    return tag("text", text, x=f"{x:.1f}", y=y, text_anchor="middle")


def _across(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)


def _down(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)
