"""Asymmetric search: references described by the teacher, queries by its student, and pairs of models that do not fit.

    python benchmarks/index_asymmetric.py --photos DIR [--models runs/asymmetric]

PHOTOS holds benchmark.json and its pictures, MODELS the files of index_asymmetric_models.py; their descriptors stay
there. Three tables: what each pair scores on the sets; what `deepir.runtime.asymmetric.compare` says of it on the
training pictures, the references and other pictures; and the false and true accepts of thresholds, of labels held out
as in index_unknown.py, from the teacher's descriptors alone and from the student's of the same pictures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from index_unknown import PLACES, SCENES, Rows, Split, describe_photos, markdown
from index_unknown import Photos as Described
from shop_photos import Photos, read_photos

from deepir.descriptors import Descriptors, similarities
from deepir.distill.whitening import spread
from deepir.errors import reports_errors
from deepir.image import list_images
from deepir.runtime.asymmetric import MOST_PICTURES, compare
from deepir.runtime.threshold import Threshold, fit_threshold
from deepir.score import score

WISHES = (0.05, 0.01)
COMPARED = ("photographs, 40 of 81 labels, 2 views", "photographs, 40 of 81 labels, 4 views")


@dataclass(frozen=True, slots=True)
class Pair:
    """Which model describes queries, which references, and whether they fit together."""

    queries: str
    references: str
    fits: bool

    def __str__(self) -> str:
        return f"{self.queries} -> {self.references}".replace("_", " ")


PAIRS = (
    Pair("teacher", "teacher", True),
    Pair("student", "student", True),
    Pair("student", "teacher", True),
    Pair("student_regression", "student_regression", True),
    Pair("student_regression", "teacher", True),
    Pair("student_int8", "teacher", True),
    Pair("student_int8", "student", True),
    Pair("student_256", "teacher", True),
    Pair("student_256", "student", True),
    Pair("teacher_one_size", "teacher", True),
    Pair("undistilled", "undistilled", True),
    Pair("undistilled_turned", "undistilled_turned", True),
    Pair("undistilled_turned", "teacher", True),
    Pair("undistilled", "teacher", False),
    Pair("undistilled_other_whitening", "undistilled", False),
    Pair("student_unturned", "teacher", False),
    Pair("student_elsewhere", "teacher", False),
    Pair("unwhitened", "unwhitened_other", False),
)
"""A pair of one model is there to be compared with."""


class Bench:
    """The pictures, and what each model says of them."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.photos: Photos = read_photos(folder)
        self._models = models
        self._folder = folder
        self._paths = list_images(folder)
        self._row_of = {path: row for row, path in enumerate(self._paths)}
        self._kept: dict[str, Described] = {}

    def described(self, name: str) -> Described:
        if name not in self._kept:
            click.echo(f"describing with {name}", err=True)
            self._kept[name] = describe_photos(self._folder, self._models / f"{name}.onnx", self._models)
        return self._kept[name]

    def of(self, name: str, paths: Sequence[Path]) -> Descriptors:
        return self.described(name).descriptors[[self._row_of[path] for path in paths]]

    def groups(self) -> dict[str, list[Path]]:
        """Pictures that a pair is compared on."""
        others = [self._paths[row] for row in self.described("teacher").of(*PLACES)]
        groups = {"train": self.photos.train, "references": self.photos.references, "places": others}
        return {name: spread(paths, MOST_PICTURES) for name, paths in groups.items()}
