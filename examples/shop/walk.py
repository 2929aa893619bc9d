"""Walk: a video of a camera that is carried past a shelf, and the truth about every frame of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from camera import saturated
from colours import Corners, Image, Rng
from shapes import Package
from shelf import BASE, FRAME_SIZE, Shelf, build_shelf

FRAMES_PER_SECOND = 12.0
EXPOSURE = 0.25  # share of the time between two frames in which the shutter is open
LEAST_SHARE = 0.6  # of a product that must be inside the frame for the frame to carry its label
CODECS = (("VP80", ".webm"), ("mp4v", ".mp4"))  # browsers play the first


@dataclass(frozen=True, slots=True)
class Moment:
    """How one frame maps shelf to frame, how far the camera moved, and the light in it."""

    transform: np.ndarray
    travel: float
    light: np.ndarray


def render_walk(
    out: Path, known: Sequence[Package], unknown: Sequence[Package], rng: Rng, *, frames: int
) -> tuple[Path, Path]:
    """Write the video and its truth, one line of JSON per frame; return both paths."""
    shelf = build_shelf(known, unknown, rng)
    moments = _plan_walk(shelf, rng, frames)
    video = _write_video(out, [_see(shelf, moment) for moment in moments])
    truth = out / "walk.jsonl"
    lines = [json.dumps({"frame": place, **_truth(shelf, moment)}) for place, moment in enumerate(moments)]
    truth.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return video, truth


def read_frames(video: Path) -> Iterator[Image]:
    """Yield the frames of the video in RGB."""
    capture = cv2.VideoCapture(str(video))
    try:
        while True:
            found, frame = capture.read()
            if not found:
                return
            yield np.asarray(frame[..., ::-1], dtype=np.uint8)
    finally:
        capture.release()


def _plan_walk(shelf: Shelf, rng: Rng, frames: int) -> list[Moment]:
    half = FRAME_SIZE[0] / 2
    speed = 1 + 0.45 * _smooth(rng, frames, 14).clip(-1, 1)
    path = np.concatenate([[0.0], np.cumsum(speed[1:])])
    centres = half + 40 + path / path[-1] * (shelf.picture.shape[1] - 2 * half - 80)
    travel = np.gradient(centres)
    down, roll, scale = (_smooth(rng, frames, 6) * amount for amount in (7.0, 1.3, 0.025))
    gain, warmth = 1 + 0.2 * _smooth(rng, frames, 40), 0.07 * _smooth(rng, frames, 60)
    moments = []
    for place in range(frames):
        middle = centres[place], BASE - 150 + down[place]
        transform = cv2.getRotationMatrix2D(middle, roll[place], 1 + scale[place])
        transform[:, 2] += (half - middle[0], FRAME_SIZE[1] / 2 - middle[1])
        light = gain[place] * np.array([1 + warmth[place], 1.0, 1 - warmth[place]])
        moments.append(Moment(transform, float(travel[place]), light))
    return moments


def _smooth(rng: Rng, frames: int, period: int) -> np.ndarray:
    """Return noise of about unit size that changes over `period` frames."""
    knots = rng.uniform(-1.2, 1.2, frames // period + 3)
    return np.interp(np.arange(frames) / period, np.arange(len(knots)), knots)


def _see(shelf: Shelf, moment: Moment) -> Image:
    frame = cv2.warpAffine(shelf.picture, moment.transform, FRAME_SIZE, borderMode=cv2.BORDER_REPLICATE)
    smeared = cv2.blur(frame, (max(1, round(EXPOSURE * moment.travel)), 1))
    return saturated(np.asarray(smeared * moment.light, dtype=np.float32))


def _truth(shelf: Shelf, moment: Moment) -> dict[str, object]:
    seen = {
        label: corners @ moment.transform[:, :2].T + moment.transform[:, 2] for label, corners in shelf.corners.items()
    }
    shares = {label: round(_share_inside(corners), 3) for label, corners in seen.items()}
    visible = {label: share for label, share in shares.items() if share > 0}
    middle = FRAME_SIZE[0] / 2
    central = {
        label: abs(float(seen[label][:, 0].mean()) - middle)
        for label, share in visible.items()
        if share >= LEAST_SHARE and seen[label][:, 0].min() <= middle <= seen[label][:, 0].max()
    }
    return {"visible": visible, "label": min(central, key=central.__getitem__, default=None)}


def _share_inside(corners: Corners) -> float:
    width, height = FRAME_SIZE
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    package = corners.astype(np.float32)
    shared, _ = cv2.intersectConvexConvex(package, frame)
    return float(shared / cv2.contourArea(package))


def _write_video(out: Path, frames: Sequence[Image]) -> Path:
    for codec, suffix in CODECS:
        video = out / f"walk{suffix}"
        writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*codec), FRAMES_PER_SECOND, FRAME_SIZE)
        try:
            for frame in frames:
                writer.write(np.ascontiguousarray(frame[..., ::-1]))
        finally:
            writer.release()
        if sum(1 for _ in read_frames(video)) == len(frames):
            return video
        video.unlink(missing_ok=True)
    message = f"OpenCV can write none of the codecs {[codec for codec, _ in CODECS]}: install opencv-python-headless"
    raise RuntimeError(message)
