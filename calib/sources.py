"""Where calibration pictures are listed: folders, lists of paths, CSV files, benchmark.json."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from deepir.datasets import read_training_images
from deepir.errors import InputError
from deepir.image import list_images

Labels = dict[Path, str | None]
"""Pictures in order, each with what it shows, where that is known."""

_FORMS = "a folder, a .txt list with a path on each line, a .csv with a column image, or a benchmark.json"


def read_sources(sources: Sequence[Path]) -> Labels:
    """The pictures of all sources; a file that is reached twice, through links too, counts once.

    A folder gives every picture below it, labelled by its sub-folders where there are two or more; with a
    benchmark.json in it, as for that file, the pictures of `train`. Paths in a .txt list (empty lines and lines that
    begin with # are skipped) and in the column `image` of a .csv (`label` may stand beside it) are relative to the
    file; whether the files in a list exist is seen when they are read.

    Raises:
        InputError: A source that is missing, empty, damaged or of another kind.
    """
    pictures: Labels = {}
    known: set[str] = set()
    for source in sources:
        for path, label in _read_source(source):
            if "\0" in str(path):
                message = f"{source} is not a list of pictures: it names {str(path)!r}"
                raise InputError(message)
            place = os.path.realpath(path)
            if place not in known:
                known.add(place)
                pictures[path] = label
    return pictures


def _read_source(source: Path) -> Iterable[tuple[Path, str | None]]:
    suffix = source.suffix.lower()
    if source.is_dir() and not (source / "benchmark.json").is_file():
        return _read_folder(source)
    if source.is_dir() or suffix == ".json":
        return [(image.path, image.label) for image in read_training_images(source)]
    if not source.exists():
        message = f"no such folder or list of pictures: {source}"
        raise InputError(message)
    if suffix not in {".txt", ".csv"}:
        message = f"{source} does not say where calibration pictures are: give {_FORMS}"
        raise InputError(message)
    text = _read_text(source)
    listed = _read_csv(source, text) if suffix == ".csv" else _read_list(source, text)
    if not listed:
        message = f"{source} lists no pictures"
        raise InputError(message)
    return listed


def _read_folder(folder: Path) -> list[tuple[Path, str | None]]:
    images = list_images(folder)
    labels = [path.parent.relative_to(folder).as_posix() for path in images]
    if len({label for label in labels if label != "."}) < 2:
        return [(path, None) for path in images]
    return [(path, None if label == "." else label) for path, label in zip(images, labels, strict=True)]


def _read_list(file: Path, text: str) -> list[tuple[Path, str | None]]:
    lines = (line.strip() for line in text.splitlines())
    return [(file.parent / line, None) for line in lines if line and not line.startswith("#")]


def _read_csv(file: Path, text: str) -> list[tuple[Path, str | None]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    listed: list[tuple[Path, str | None]] = []
    try:
        if "image" not in (reader.fieldnames or ()):
            message = f"{file} line 1: no column image, got {','.join(reader.fieldnames or ())!r}"
            raise InputError(message)
        for fields in reader:
            image = (fields["image"] or "").strip()
            if not image:
                message = f"{file} line {reader.line_num}: no image"
                raise InputError(message)
            listed.append((file.parent / image, (fields.get("label") or "").strip() or None))
    except csv.Error as error:
        message = f"{file} is not CSV after line {reader.line_num}: {error}"
        raise InputError(message) from error
    return listed


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise InputError(message) from error
    except UnicodeDecodeError as error:
        message = f"{file} is not a list of pictures: it is not UTF-8 text ({error.reason})"
        raise InputError(message) from error
