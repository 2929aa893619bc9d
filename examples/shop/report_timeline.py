"""Timeline of the report: truth and result of the video side by side, frame by frame and stretch by stretch."""

import itertools
from collections.abc import Sequence

from report_html import Html, table, tag
from walk import FRAMES_PER_SECOND
from walk_score import BAD, GOOD, Outcome, Stretch, WalkScore

GOLDEN_ANGLE = 137.508  # degrees between the hues of neighbours
COLOURS = (
    {Outcome.MISSED: "f-unknown", Outcome.UNSCORED: None} | dict.fromkeys(GOOD, "f-good") | dict.fromkeys(BAD, "f-bad")
)


def choose_hues(score: WalkScore) -> dict[str, str]:
    """Return a colour for each product."""
    labels = dict.fromkeys(label for frame in score.frames for label in (frame.truth, frame.answer) if label)
    return {label: f"hsl({place * GOLDEN_ANGLE % 360:.0f} var(--sat) var(--lum))" for place, label in enumerate(labels)}


def show_timeline(score: WalkScore, hues: dict[str, str]) -> Html:
    """Return the strips of truth, result and verdict over time."""
    rows: dict[str, list[tuple[str | None, str | None]]] = {
        "truth": [(frame.truth, hues.get(frame.truth or "")) for frame in score.frames],
        "result": [(frame.answer or "unknown", hues.get(frame.answer or "")) for frame in score.frames],
    }
    strips = [part for name, row in rows.items() for part in (tag("span", name), _strip(row))]
    verdicts = [(frame.outcome.value, COLOURS[frame.outcome]) for frame in score.frames]
    end = (score.frames[-1].number + 1) / FRAMES_PER_SECOND
    axis = [tag("span", f"{end * part / 4:.0f} s") for part in range(5)]
    legend = [("correct or rejected", "good"), ("wrong or false match", "bad"), ("unknown, though known", "unknown")]
    return tag(
        "figure",
        tag("div", *strips, tag("span", "verdict"), _strip(verdicts), "", tag("span"), tag("div", *axis, class_="axis"),
            class_="strip"),
        tag(
            "figcaption",
            "Each product has its colour; blank is none. Verdict: ",
            *(tag("span", _chip(f"var(--{name})"), text, class_="legend") for text, name in legend),
            "blank is not scored.",
        ),
    )  # fmt: skip


def _strip(row: Sequence[tuple[str | None, str | None]]) -> Html:
    """Return one line of the timeline; equal neighbours become one rectangle, told in its title."""
    parts = [tag("rect", x=0, y=0, width=len(row), height=10, class_="f-line half")]
    place = 0
    for (text, colour), group in itertools.groupby(row):
        length = len(list(group))
        if colour:
            paint = {"class_": colour} if colour.startswith("f-") else {"style": f"fill:{colour}"}
            parts.append(tag("rect", tag("title", text or ""), x=place, y=0, width=length, height=10, **paint))
        place += length
    return tag("svg", *parts, viewBox=f"0 0 {len(row)} 10", preserveAspectRatio="none")


def show_stretches(stretches: Sequence[Stretch], hues: dict[str, str]) -> Html:
    """Return the table of the stretches."""
    columns = ("in the middle", "most frames answered", "from (s)", "frames", "right", "wrong", "unknown")
    return table(columns, [_stretch_cells(stretch, hues) for stretch in stretches], words=2)


def _stretch_cells(stretch: Stretch, hues: dict[str, str]) -> list[str]:
    right = stretch.answer == stretch.truth
    truth = [_chip(hues[stretch.truth]), stretch.truth] if stretch.truth else ["nothing known"]
    answer = tag("span", f"{'✓' if right else '✗'} {stretch.answer or 'unknown'}", class_="good" if right else "bad")
    counts = [stretch.count(*outcomes) for outcomes in (GOOD, BAD, (Outcome.MISSED,))]
    start = f"{stretch.frames[0].number / FRAMES_PER_SECOND:.1f}"
    return [tag("span", *truth), answer, start, str(len(stretch.frames)), *map(str, counts)]


def _chip(colour: str) -> Html:
    return tag("span", class_="chip", style=f"background:{colour}")
