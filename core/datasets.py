"""Pictures with ground truth: folders of labels, benchmark.json, CSV, Oxford, Paris, revisited, Holidays."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir.errors import InputError, OptionError
from deepir.holidays import is_holidays, read_holidays
from deepir.image import Box, list_images
from deepir.labels_csv import read_csv_queries, read_csv_set
from deepir.landmarks import landmark_layout, read_landmarks
from deepir.retrieval_set import Query, RetrievalSet, as_box, scored_set
from deepir.revisited import find_ground_truth, read_revisited

__all__ = [
    "LAYOUTS",
    "Box",
    "LabelledImage",
    "Query",
    "RetrievalSet",
    "read_labelled_folder",
    "read_labelled_queries",
    "read_picture_paths",
    "read_retrieval_sets",
    "read_training_images",
]

LAYOUTS = ("auto", "benchmark", "labels", "csv", "oxford", "paris", "revisited", "holidays")

_BENCHMARK_PROTOCOL = "positives and junk as listed, the query's own image takes no rank"
_LABELS_PROTOCOL = "every picture is a query for the others of its label, its own image takes no rank"


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture and what it shows."""

    path: Path
    label: str


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


def read_labelled_queries(source: Path) -> list[LabelledImage]:
    """Pictures to search with: those of a folder for each label, or a CSV file with the columns image and label.

    Raises:
        InputError: Nothing there, not of either form, or pictures of it missing.
    """
    if source.is_file():
        return [LabelledImage(path, label) for path, label in read_csv_queries(source)]
    return read_labelled_folder(source)


def read_retrieval_sets(source: Path, layout: str = "auto") -> dict[str, RetrievalSet]:
    """The scored sets of a dataset, by name.

    Args:
        source: A folder; or the file benchmark.json, a .csv, or a gnd_*.pkl.
        layout: One of LAYOUTS. `auto` takes benchmark.json where there is one, else gnd_*.pkl, else files *_query.txt
            (Oxford and Paris), else pictures with the six-digit names of Holidays, else a folder for each label.

    Raises:
        OptionError: No such layout.
        InputError: Nothing there, not of that layout, or pictures of it missing.
    """
    if layout not in LAYOUTS:
        message = f"the layout of a dataset is one of {', '.join(LAYOUTS)}, got {layout!r}"
        raise OptionError(message)
    chosen = _detect(source) if layout == "auto" else layout
    if chosen in {"oxford", "paris"}:
        return read_landmarks(source, chosen)
    read = {
        "benchmark": _read_benchmark_sets,
        "labels": _every_image_a_query,
        "csv": read_csv_set,
        "revisited": read_revisited,
        "holidays": read_holidays,
    }[chosen]
    return read(source)


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


def _detect(source: Path) -> str:
    by_suffix = {".csv": "csv", ".pkl": "revisited"}
    if not source.is_dir():
        return by_suffix.get(source.suffix.lower(), "benchmark") if source.is_file() else "labels"
    if (source / "benchmark.json").is_file():
        return "benchmark"
    if find_ground_truth(source):
        return "revisited"
    return landmark_layout(source) or ("holidays" if is_holidays(source) else "labels")


def _every_image_a_query(folder: Path) -> dict[str, RetrievalSet]:
    images = read_labelled_folder(folder)
    by_label: dict[str, set[Path]] = {}
    for image in images:
        by_label.setdefault(image.label, set()).add(image.path)
    if all(len(paths) == 1 for paths in by_label.values()):
        message = f"every label of {folder} has a single picture: scoring needs labels with two or more"
        raise InputError(message)
    queries = [
        Query(
            str(image.path.relative_to(folder)),
            image.path,
            frozenset(by_label[image.label] - {image.path}),
            frozenset({image.path}),
        )
        for image in images
    ]
    name = folder.absolute().name
    return {name: scored_set(name, [image.path for image in images], queries, _LABELS_PROTOCOL)}


def _read_benchmark_sets(source: Path) -> dict[str, RetrievalSet]:
    manifest = source / "benchmark.json" if source.is_dir() else source
    sets = _read_json(manifest).get("sets")
    if not sets:
        message = f"{manifest} has no `sets` to score"
        raise InputError(message)
    try:
        return {name: _read_set(name, entry, manifest) for name, entry in sets.items()}
    except (AttributeError, KeyError, TypeError) as error:
        message = f"{manifest} is not a benchmark.json: {error!r}"
        raise InputError(message) from error


def _read_set(name: str, entry: dict[str, Any], manifest: Path) -> RetrievalSet:
    queries = [_read_query(query, manifest) for query in entry["queries"]]
    return scored_set(name, [manifest.parent / path for path in entry["database"]], queries, _BENCHMARK_PROTOCOL)


def _read_query(query: dict[str, Any], manifest: Path) -> Query:
    root, key, box = manifest.parent, str(query["id"]), query.get("bbox")
    image = root / query["image"]
    return Query(
        key,
        image,
        frozenset(root / path for path in query["positives"]) - {image},
        frozenset(root / path for path in query.get("junk", ())) | {image},
        None if box is None else as_box(box, f"{manifest}: {key}"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"{path} is not JSON: {error}"
        raise InputError(message) from error
    if not isinstance(content, dict):
        message = f"{path} must hold a JSON object, got {type(content).__name__}"
        raise InputError(message)
    return content
