"""Where pictures come from, written as one word.

    camera0  camera:0  0  /dev/video0    a camera of this machine: the newest frame
    rtsp://user:password@host/path       a network camera (rtsps, http, https, rtmp, udp, tcp): the newest frame
    walk.mp4                             a video file: every frame
    photographs/                         a folder: every image below it, sorted by name
    photograph.jpg                       one image

A file that is called like a camera is meant with its folder: ./camera0
"""

import re
from pathlib import Path

from deepir.errors import InputError
from deepir.image import SUFFIXES, list_images
from deepir.runtime.camera import open_camera, open_stream
from deepir.runtime.frame import Frame, Source
from deepir.runtime.recording import ImageFiles, VideoFile

__all__ = ["Frame", "Source", "open_source", "without_password"]

_CAMERA = re.compile(r"(?:camera:?|/dev/video)?(\d{1,3})")
_ADDRESS = re.compile(r"(?:rtsps?|https?|rtmp|udp|tcp)://.+")
_FORMS = "camera0, /dev/video0, rtsp://..., a video, an image or a folder of images"


def open_source(text: str | Path) -> Source:
    """Open a source by its word; the grammar is this module's docstring.

    Raises:
        InputError: A file that is missing, or neither picture nor video.
        SourceError: A camera that is not there.
    """
    word = str(text)
    if camera := _CAMERA.fullmatch(word):
        return open_camera(int(camera[1]))
    if _ADDRESS.fullmatch(word):
        return open_stream(word, without_password(word))
    return _open_path(Path(word))


def without_password(address: str) -> str:
    """The address as it may be shown: user and password become ***."""
    # up to the last @, because a password may hold / and @ itself
    return re.sub(r"(?<=//).*@", "***@", address)


def _open_path(path: Path) -> Source:
    if path.is_dir():
        return ImageFiles(list_images(path), str(path))
    if not path.exists():
        message = f"no such source: {without_password(str(path))}; expected {_FORMS}"
        raise InputError(message)
    if path.suffix.lower() in SUFFIXES:
        return ImageFiles([path], str(path))
    return VideoFile(path)
