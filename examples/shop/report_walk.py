"""Walk of the report: the truth and the result of every frame of the video, and frames to look at."""

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path

from colours import Image
from report_html import Html, section, tag
from report_pictures import thumbnail
from report_timeline import choose_hues, show_stretches, show_timeline
from walk import CODECS, FRAMES_PER_SECOND, read_frames
from walk_score import BAD, GOOD, FrameScore, Outcome, WalkScore

SAMPLES = 12
LEAST_OTHER_SAMPLES = 4  # of the samples, kept for frames that are not wrong
FRAME_SIDE = 300
LARGEST_EMBEDDED = 4_000_000  # bytes of a video


def show_walk(run: Path, score: WalkScore) -> Html:
    """Return the section on the video."""
    hues = choose_hues(score)
    return section(
        "The walk along the shelves",
        tag("p", score.line() + "."),
        tag(
            "p",
            "A frame has a truth when a known product stands in its middle; other products on the shelf are not in "
            "the index and must be answered with unknown. Frames in which known products are visible, but none as the "
            "subject, have no single right answer: they are shown, not scored.",
            class_="soft",
        ),
        show_timeline(score, hues),
        tag("h3", "Stretch by stretch"),
        show_stretches(score.stretches, hues),
        tag("h3", "Frames to look at, wrong answers first"),
        tag("div", *_show_samples(run, choose_samples(score)), class_="frames"),
        tag("h3", "The annotated video"),
        _show_video(run),
    )


def choose_samples(score: WalkScore) -> list[FrameScore]:
    """Return frames to show: wrong ones first, the surest first, one of each kind from each stretch."""
    kinds: dict[tuple[int, Outcome, str | None], FrameScore] = {}
    for place, stretch in enumerate(score.stretches):
        for frame in stretch.frames:
            key = place, frame.outcome, frame.answer
            if key not in kinds or frame.similarity > kinds[key].similarity:
                kinds[key] = frame
    surest = sorted(kinds.values(), key=lambda frame: -frame.similarity)
    bad = [frame for frame in surest if frame.outcome in BAD]
    missed = [frame for frame in surest if frame.outcome is Outcome.MISSED]
    good = sorted((frame for frame in surest if frame.outcome in GOOD), key=lambda frame: frame.number)
    others = missed[: LEAST_OTHER_SAMPLES // 2]
    others += _spread(good, max(LEAST_OTHER_SAMPLES - len(others), SAMPLES - len(bad) - len(others)))
    return [*bad[: SAMPLES - len(others)], *others]


def _spread(frames: Sequence[FrameScore], count: int) -> list[FrameScore]:
    count = min(count, len(frames))
    return [frames[place * len(frames) // count] for place in range(count)]


def _show_samples(run: Path, frames: Sequence[FrameScore]) -> list[Html]:
    pictures = _read_frames(run, {frame.number for frame in frames})
    return [_show_sample(frame, pictures[frame.number]) for frame in frames]


def _show_sample(frame: FrameScore, picture: Image) -> Html:
    kind = "right" if frame.outcome in GOOD else "wrong" if frame.outcome in BAD else "missed"
    mark = {"right": "✓", "wrong": "✗", "missed": "?"}[kind]
    text = (
        f" at {frame.number / FRAMES_PER_SECOND:.1f} s. Truth: {frame.truth or 'nothing known'}; "
        f"result: {frame.answer or 'unknown'}, similarity {frame.similarity:.3f}"
    )
    caption = tag("figcaption", tag("b", f"{mark} {frame.outcome.value}"), text)
    return tag("figure", thumbnail(picture, frame.truth or "shelf", side=FRAME_SIDE), caption, class_=f"shot {kind}")


def _read_frames(run: Path, numbers: set[int]) -> dict[int, Image]:
    video = next(path for path in (run / "shop" / f"walk{suffix}" for _, suffix in CODECS) if path.exists())
    found = {}
    for number, picture in enumerate(itertools.islice(read_frames(video), max(numbers) + 1)):
        if number in numbers:
            found[number] = picture
    return found


def _show_video(run: Path) -> Html:
    videos = sorted(run.glob("walk_annotated.*"))
    if not videos:
        return tag("p", "This run saved none.", class_="soft")
    video = videos[0]
    content = video.read_bytes()
    if len(content) >= LARGEST_EMBEDDED:
        link = tag("a", video.name, href=video.name)
        return tag("p", "Too large for this page: ", link, f" ({len(content) / 1e6:.1f} MB), beside it.")
    kind = "video/webm" if video.suffix == ".webm" else "video/mp4"
    source = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return tag("video", src=source, controls="", playsinline="", preload="metadata")
