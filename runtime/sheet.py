"""A contact sheet: rows of small pictures with captions and similarities, as one HTML page that needs nothing else."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from deepir.errors import InputError, OptionError, ShapeError
from deepir.files import write_text
from deepir.image import read_image, turn_to_rgb
from deepir.optional import need
from deepir.runtime.sheet_style import STYLE

MOST_GROUPS = 50
MOST_PICTURES = 24

_SIDE = 176
"""Longer side of a picture in the page, in pixels: sharp enough at half its size on a phone."""

_QUALITY = 72
_KINDS = {None: ("neutral", ""), True: ("good", "✓ "), False: ("bad", "✗ ")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure of a row.

    Attributes:
        path: The file; None, or one that cannot be read, becomes a grey tile with its name.
        caption: What stands below it.
        similarity: To what the group shows; None where there is nothing to compare.
        good: Whether it is right, as a sign and a colour; None says nothing.
    """

    path: Path | None
    caption: str
    similarity: float | None = None
    good: bool | None = None

    def __post_init__(self) -> None:
        if self.similarity is not None and not math.isfinite(self.similarity):
            message = f"the picture {self.caption!r} needs a finite similarity or none, got {self.similarity}"
            raise ShapeError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A row of pictures under a heading, shown in their order.

    Attributes:
        title: The heading.
        note: A sentence below it; may be empty.
        pictures: Such as a query and what it found, the most similar first.
    """

    title: str
    note: str = ""
    pictures: Sequence[Picture]


def write_sheet(path: Path, title: str, facts: Mapping[str, str], groups: Sequence[Group]) -> None:
    """Write the sheet, whole or not at all; see `sheet_html`.

    Raises:
        InputError: A folder, or in a folder that does not exist; said before a picture is read.
        MissingDependency: OpenCV is not installed.
    """
    if path.is_dir() or not path.parent.is_dir():
        message = f"cannot write the sheet {path}: it is a folder, or its folder {path.parent} does not exist"
        raise InputError(message)
    write_text(path, sheet_html(title, facts, groups))


def sheet_html(
    title: str,
    facts: Mapping[str, str],
    groups: Sequence[Group],
    *,
    most_groups: int = MOST_GROUPS,
    most_pictures: int = MOST_PICTURES,
) -> str:
    """The page; nothing that a name says can load or run in it.

    Args:
        title: The heading of the page.
        facts: What it was made from, a line each.
        groups: The first `most_groups` are shown, and the page says how many were left out.
        most_groups: Positive.
        most_pictures: Of each group the first so many are shown, and the group says how many were left out.

    Raises:
        OptionError: Fewer than one group or picture to show.
        MissingDependency: OpenCV is not installed.
    """
    if min(most_groups, most_pictures) < 1:
        message = f"a sheet needs 1 group and 1 picture or more to show, got {most_groups} and {most_pictures}"
        raise OptionError(message)
    lines = "".join(f"<dt>{_text(what)}</dt><dd>{_words(how)}</dd>" for what, how in facts.items())
    rows = "".join(_group_html(group, most_pictures) for group in groups[:most_groups])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # no name in the page can load or run anything, should one ever escape its escaping
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body><main><h1>{_words(title)}</h1>"
        f"{f'<dl>{lines}</dl>' if lines else ''}{rows}{_left_out(len(groups) - most_groups, 'group')}"
        "</main></body></html>\n"
    )


def _group_html(group: Group, most: int) -> str:
    figures = "".join(_figure_html(picture) for picture in group.pictures[:most])
    note = f"<p>{_words(group.note)}</p>" if group.note else ""
    return (
        f'<section><h2>{_words(group.title)}</h2>{note}<div class="row">{figures}</div>'
        f"{_left_out(len(group.pictures) - most, 'picture')}</section>"
    )


def _figure_html(picture: Picture) -> str:
    kind, sign = _KINDS[picture.good]
    similarity = "" if picture.similarity is None else f"{picture.similarity:.3f}"
    value = f"<b>{sign}{similarity}</b> " if sign or similarity else ""
    return (
        f'<figure class="{kind}">{_picture_html(picture)}'
        f"<figcaption>{value}<span>{_words(picture.caption)}</span></figcaption></figure>"
    )


def _picture_html(picture: Picture) -> str:
    small = None if picture.path is None else _thumbnail(picture.path)
    if small is None:
        name = picture.caption if picture.path is None else picture.path.name
        return f'<div class="absent">no picture<br>{_words(name)}</div>'
    encoded, width, height = small
    return (
        f'<img src="data:image/jpeg;base64,{encoded}" alt="{_text(picture.caption)}" width="{width}" height="{height}">'
    )


def _thumbnail(path: Path) -> tuple[str, int, int] | None:
    """A small JPEG in base64 with its width and height; None where there is no picture to read."""
    try:
        rgb = read_image(path)
    except InputError:
        return None
    cv2 = need("cv2")
    ratio = min(1.0, _SIDE / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * ratio)), max(1, round(rgb.shape[0] * ratio))
    # the same exchange of red and blue leads back to OpenCV's order
    bgr = turn_to_rgb(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(encoded.tobytes()).decode("ascii"), *size


def _left_out(count: int, what: str) -> str:
    if count < 1:
        return ""
    return f'<p class="more">{count} more {what}{"s are" if count > 1 else " is"} not shown.</p>'


def _text(words: str) -> str:
    # a file name that is not UTF-8 holds half characters that no page can
    return escape(words.encode("utf-8", "replace").decode())


def _words(words: str) -> str:
    # a long label or path breaks where its parts end rather than anywhere
    return _text(words).replace("/", "/<wbr>")
