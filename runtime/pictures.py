"""The pictures of stored views: small copies kept beside the index, and where the originals are."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from deepir.errors import InputError, OptionError
from deepir.files import replacing
from deepir.image import Image, read_image
from deepir.optional import need
from deepir.runtime.items import Item

THUMBNAIL = "thumbnail"
"""The entry of a view's metadata that names its small copy."""

SIDE = 384
"""Longest side of a small copy: enough to describe it again with a model of 320 pixels."""

_SMALLEST_SIDE = 32
_QUALITY = 90


def thumbnails_of(index_path: Path) -> Path:
    """The folder of an index's small copies."""
    return index_path.with_name(f"{index_path.name}.thumbnails")


def check_side(side: int) -> None:
    """Refuse a size at which nothing can be seen.

    Raises:
        OptionError: Fewer than 32 pixels.
    """
    if side < _SMALLEST_SIDE:
        message = f"thumbnails need a longest side of {_SMALLEST_SIDE} pixels or more, got {side}"
        raise OptionError(message)


def encode_thumbnail(image: Image, side: int) -> bytes:
    """An RGB picture as a JPEG whose longest side is at most `side` pixels."""
    cv2 = need("cv2")
    factor = min(1.0, side / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    small = image if factor == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return bytes(np.asarray(encoded).tobytes())


def keep_thumbnail(index_path: Path, encoded: bytes) -> str:
    """Write a small copy beside the index and give the name that its metadata stores.

    It is named by its content, so that generations of an index share it.
    """
    folder = thumbnails_of(index_path)
    folder.mkdir(exist_ok=True)
    name = f"{hashlib.sha256(encoded).hexdigest()[:32]}.jpg"
    if not (folder / name).exists():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(encoded)
    return name


def source_text(picture: Path, index_path: Path) -> str:
    """How an index names a picture: from its own folder where the picture lies below it, else by the whole path."""
    whole, folder = picture.resolve(), index_path.resolve().parent
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)


def find_pictures(item: Item, index_path: Path) -> list[Path]:
    """The files that show a stored view, the original before its small copy; none where all are gone."""
    original = index_path.resolve().parent / item.source
    kept = item.metadata.get(THUMBNAIL)
    small = [thumbnails_of(index_path) / os.path.basename(kept)] if isinstance(kept, str) else []
    return [path for path in ([original] if item.source else []) + small if path.is_file()]


def read_picture(path: Path, *, skip_unreadable: bool) -> Image | None:
    """A picture; None where it cannot be decoded and may be left out.

    Raises:
        InputError: It cannot be decoded and must not be left out.
    """
    try:
        return read_image(path)
    except InputError as error:
        if skip_unreadable:
            return None
        message = f"{error}; --skip-unreadable leaves such files out"
        raise InputError(message) from error


def read_view(item: Item, index_path: Path) -> Image:
    """The picture of a stored view, from its original or else its small copy.

    Raises:
        InputError: Neither is there, or none can be decoded.
    """
    found = find_pictures(item, index_path)
    if not found:
        message = f"neither the picture {item.source or '(no path)'} of {item.label} nor a thumbnail of it is there"
        raise InputError(message)
    for path in found[:-1]:
        with contextlib.suppress(InputError):
            return read_image(path)
    return read_image(found[-1])


def drop_unused(index_path: Path, items: list[Item]) -> int:
    """Delete the small copies that no view names any more, and say how many."""
    used = {item.metadata.get(THUMBNAIL) for item in items}
    unused = [path for path in thumbnails_of(index_path).glob("*.jpg") if path.name not in used]
    for path in unused:
        path.unlink()
    return len(unused)
