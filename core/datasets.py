"""Pictures with ground truth: a folder for each label, or a benchmark.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir.errors import InputError
from deepir.image import list_images


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture and what it shows."""

    path: Path
    label: str


@dataclass(frozen=True, slots=True)
class Query:
    """A picture to search with; its own image and its junk are left out of the ranking."""

    key: str
    image: Path
    positives: frozenset[Path]
    junk: frozenset[Path]


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A database of pictures and the queries that are scored on it."""

    name: str
    database: tuple[Path, ...]
    queries: tuple[Query, ...]


def read_labelled_folder(folder: Path) -> list[LabelledImage]:
    """Every picture of `folder/<label>/...`; the label is the path below the folder, `brand/product` too.

    Raises:
        InputError: The folder is missing, empty, or has pictures outside label folders.
    """
    images = [LabelledImage(path, path.parent.relative_to(folder).as_posix()) for path in list_images(folder)]
    loose = next((image.path for image in images if image.label == "."), None)
    if loose is not None:
        message = f"{loose} lies outside a label folder: expected {folder}/<label>/{loose.name}"
        raise InputError(message)
    return images


def read_retrieval_sets(source: Path) -> dict[str, RetrievalSet]:
    """The scored sets of a benchmark.json (or a folder that has one), else a folder for each label as one set.

    Raises:
        InputError: Nothing there, or not of either form.
    """
    manifest = source / "benchmark.json" if source.is_dir() else source
    if manifest.is_file():
        return _read_benchmark_sets(manifest)
    return {source.name: _every_image_a_query(source)}


def read_training_images(source: Path) -> list[LabelledImage]:
    """The `train` pictures of a benchmark.json (or a folder that has one), else those of a folder for each label.

    Raises:
        InputError: Nothing there, or not of either form.
    """
    manifest = source / "benchmark.json" if source.is_dir() else source
    if not manifest.is_file():
        return read_labelled_folder(source)
    entries = _read_json(manifest).get("train", [])
    try:
        images = [LabelledImage(manifest.parent / entry["image"], str(entry["label"])) for entry in entries]
    except (KeyError, TypeError) as error:
        message = f"{source}: each entry of `train` needs an image and a label ({error!r} is missing)"
        raise InputError(message) from error
    if not images:
        message = f"{source} has no `train` pictures"
        raise InputError(message)
    return images


def read_picture_paths(source: Path) -> list[Path]:
    """Pictures to learn or calibrate from: the `train` pictures where there is a benchmark.json, else a whole folder.

    Pictures that a benchmark scores are never among them.

    Raises:
        InputError: Nothing there.
    """
    if source.is_file() or (source / "benchmark.json").is_file():
        return [image.path for image in read_training_images(source)]
    return list_images(source)


def _every_image_a_query(folder: Path) -> RetrievalSet:
    images = read_labelled_folder(folder)
    by_label: dict[str, set[Path]] = {}
    for image in images:
        by_label.setdefault(image.label, set()).add(image.path)
    queries = tuple(
        Query(str(image.path.relative_to(folder)), image.path, frozenset(others), frozenset())
        for image in images
        if (others := by_label[image.label] - {image.path})
    )
    if not queries:
        message = f"every label of {folder} has a single picture: scoring needs labels with two or more"
        raise InputError(message)
    return RetrievalSet(folder.name, tuple(image.path for image in images), queries)


def _read_benchmark_sets(manifest: Path) -> dict[str, RetrievalSet]:
    sets = _read_json(manifest).get("sets")
    if not sets:
        message = f"{manifest} has no `sets` to score"
        raise InputError(message)
    try:
        return {name: _read_set(name, entry, manifest.parent) for name, entry in sets.items()}
    except (AttributeError, KeyError, TypeError) as error:
        message = f"{manifest} is not a benchmark.json: {error!r}"
        raise InputError(message) from error


def _read_set(name: str, entry: dict[str, Any], root: Path) -> RetrievalSet:
    queries = tuple(
        Query(
            str(query["id"]),
            root / query["image"],
            frozenset(root / path for path in query["positives"]),
            frozenset(root / path for path in query.get("junk", ())),
        )
        for query in entry["queries"]
    )
    if not queries:
        message = f"the set {name} has no queries to score"
        raise InputError(message)
    return RetrievalSet(name, tuple(root / path for path in entry["database"]), queries)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    except ValueError as error:
        message = f"{path} is not JSON: {error}"
        raise InputError(message) from error
    if not isinstance(content, dict):
        message = f"{path} must hold a JSON object, got {type(content).__name__}"
        raise InputError(message)
    return content
