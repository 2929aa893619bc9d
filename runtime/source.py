"""Where pictures come from, written as one word.

    camera0  camera:0  0                 the first camera of this machine: the newest frame
    /dev/video2  /dev/v4l/by-id/...      a camera by its node, or by the path that stays when it is plugged in again
    camera:"Logitech C920"               the one camera with these words in its name
    csi://0                              a camera on a Jetson's own connector; needs an OpenCV with GStreamer
    rtsp://user:password@host/path       a network camera (rtsps, http, https, rtmp, udp, tcp): the newest frame
    gst:v4l2src ! videoconvert           a GStreamer pipeline: the newest frame
    test://640x480@30?drop=5s            a camera that does not exist (runtime/synthetic_camera.py): the newest frame
    walk.mp4                             a video file: every frame
    photographs/                         a folder: every image below it, sorted by name
    "photographs/*.jpg"                  every image that matches, sorted
    list.txt                             every image of a list, one a line, relative to the list
    photograph.jpg                       one image
    -                                    JPEG files one after another on stdin: every picture

A file that is called like a camera or a pattern is meant with its folder: ./camera0
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepir.errors import InputError
from deepir.image import SUFFIXES, list_images
from deepir.optional import need
from deepir.runtime.camera import Camera
from deepir.runtime.camera_reader import Opener
from deepir.runtime.camera_state import Patience
from deepir.runtime.frame import Frame, Source
from deepir.runtime.gstreamer_camera import check_gstreamer, opener_of_csi, opener_of_pipeline
from deepir.runtime.jpeg_pipe import JpegPipe, standard_input
from deepir.runtime.local_camera import opener_of_name, opener_of_node, opener_of_number
from deepir.runtime.network_camera import opener_of_address
from deepir.runtime.picture_words import is_pattern, listed_images, matching_images
from deepir.runtime.recording import ImageFiles, VideoFile
from deepir.runtime.redact import without_password
from deepir.runtime.synthetic_camera import opener_of_synthetic

__all__ = ["Frame", "Patience", "Source", "Word", "open_source", "parse_source", "without_password"]

Kind = Literal["number", "node", "name", "csi", "address", "pipeline", "synthetic", "stdin", "path"]

_GRAMMAR: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("number", re.compile(r"(?:camera:?)?(\d{1,3})")),
    ("node", re.compile(r"(/dev/(?:video\d+|v4l/by-(?:id|path)/.+))")),
    ("csi", re.compile(r"csi:(?://)?(\d{1,2})")),
    ("name", re.compile(r"camera:\s*(\"[^\"]+\"|'[^']+'|[^\"'].*)")),
    ("address", re.compile(r"((?:rtsps?|https?|rtmp|udp|tcp)://.+)", re.IGNORECASE)),
    ("pipeline", re.compile(r"gst:\s*(.+)", re.DOTALL)),
    ("synthetic", re.compile(r"(test://.*)")),
    ("stdin", re.compile(r"(-)")),
)
_FORMS = "camera0, /dev/video0, rtsp://..., a video, an image, a folder or list of images, - or test://"

_OPENERS: dict[Kind, Callable[[str], Opener]] = {
    "number": lambda value: opener_of_number(int(value)),
    "node": lambda value: opener_of_node(Path(value)),
    "name": opener_of_name,
    "csi": lambda value: opener_of_csi(int(value)),
    "address": opener_of_address,
    "pipeline": opener_of_pipeline,
    "synthetic": opener_of_synthetic,
}


@dataclass(frozen=True, slots=True)
class Word:
    """A source, read but not opened.

    Attributes:
        kind: What it is; of a path, the file system decides what.
        value: The number, node, name, address, pipeline or path; may hold a password.
        name: As it may be shown.
    """

    kind: Kind
    value: str
    name: str

    @property
    def live(self) -> bool:
        """Whether it is a camera."""
        return self.kind in _OPENERS


def parse_source(text: str | Path) -> Word:
    """Read a source's word, without looking whether it is there; the grammar is this module's docstring."""
    word = str(text)
    for kind, form in _GRAMMAR:
        if found := form.fullmatch(word):
            value = found[1].strip("\"'") if kind == "name" else found[1]
            return Word(kind, value, f"camera{int(value)}" if kind == "number" else without_password(word))
    return Word("path", word, without_password(word))


def open_source(text: str | Path, patience: Patience | None = None) -> Source:
    """Open a source by its word; the grammar is this module's docstring.

    Args:
        text: The word.
        patience: When a camera counts as lost, and what happens then; by default it is an error.

    Raises:
        InputError: A file that is missing, or neither picture nor video.
        SourceError: A camera that is not there, and is not waited for.
        OptionError: A test:// word that is not understood.
        MissingDependency: No OpenCV, or none with GStreamer for csi:// and gst:.
    """
    word = parse_source(text)
    if word.kind == "path":
        return _open_path(Path(word.value))
    if word.kind == "stdin":
        return JpegPipe(standard_input(), "stdin")
    # without it the thread would fail, again and again
    need("cv2")
    if word.kind in {"csi", "pipeline"}:
        check_gstreamer(str(text))
    return Camera(_OPENERS[word.kind](word.value), word.name, patience).await_first_try()


def _open_path(path: Path) -> Source:
    if path.is_dir():
        return ImageFiles(list_images(path), str(path))
    if not path.exists() and is_pattern(str(path)):
        return ImageFiles(matching_images(str(path)), str(path))
    if not path.exists():
        message = f"no such source: {without_password(str(path))}; expected {_FORMS}"
        raise InputError(message)
    if path.suffix.lower() in SUFFIXES:
        return ImageFiles([path], str(path))
    if path.suffix.lower() == ".txt":
        return ImageFiles(listed_images(path), str(path))
    return VideoFile(path)
