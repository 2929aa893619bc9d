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
from index_unknown import PHOTOGRAPHS, REFERENCES, SCENES, TOWER, TRAIN, Split, describe_photos, markdown
from index_unknown import Photos as Described
from shop_photos import Photos, read_photos

from deepir.descriptors import Descriptors
from deepir.distill.whitening import spread
from deepir.errors import reports_errors
from deepir.image import list_images
from deepir.runtime.asymmetric import MOST_PICTURES, Compatibility, compare
from deepir.runtime.threshold import threshold_from_queries
from deepir.score import score

FOLDERS = {
    "train": TRAIN,
    "references": REFERENCES,
    "photographs": PHOTOGRAPHS,
    "tower": TOWER,
    "scenes": ("scenes",),
    "corridor": ("corridor",),
}
"""Pictures that a pair is compared on; the student learns from the first, its last layer sees the second too."""
WISHES = (0.05, 0.01)
COMPARED = (
    "photographs, 40 of 81 labels, 2 views",
    "photographs, 40 of 81 labels, 4 views",
    "photographs, 65 of 81 labels, 4 views",
)


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
    Pair("student", "student_three_sizes", True),
    Pair("teacher_one_size", "teacher_one_size", True),
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

    def pairs(self) -> Iterator[Pair]:
        """Those of PAIRS whose models are there; the others are named on stderr."""
        for pair in PAIRS:
            missing = {name for name in (pair.queries, pair.references) if not self._is_there(name)}
            if missing:
                click.echo(f"skipped {pair}: no {' and no '.join(sorted(missing))} in {self._models}", err=True)
            else:
                yield pair

    def _is_there(self, name: str) -> bool:
        return any((self._models / f"{name}{suffix}").is_file() for suffix in (".npz", ".onnx"))

    def groups(self) -> dict[str, list[Path]]:
        """Pictures that a pair is compared on."""
        folders, described = FOLDERS, self.described("teacher")
        groups = {name: [self._paths[row] for row in described.of(*some)] for name, some in folders.items()}
        return {name: spread(paths, MOST_PICTURES) for name, paths in groups.items()}


def retrieval_table(bench: Bench) -> Iterator[list[str]]:
    """Mean average precision and recall@1 of each set, and their means."""
    sets = bench.photos.sets
    yield ["queries -> references", "fit", *sets, "mean mAP", "mean R@1"]
    for pair in bench.pairs():
        found = []
        for dataset in sets.values():
            queries_qd = bench.of(pair.queries, [query.image for query in dataset.queries])
            scores = score(dataset, queries_qd, bench.of(pair.references, dataset.database))
            found.append((100 * scores.mean_ap, 100 * scores.recall_at[1]))
        means = np.mean(found, axis=0)
        cells = [f"{mean_ap:.1f} / {recall:.1f}" for mean_ap, recall in found]
        yield [str(pair), _answer(fits=pair.fits), *cells, *(f"{mean:.1f}" for mean in means)]


def compatibility_table(bench: Bench) -> Iterator[list[str]]:
    """The figures of `compare` on each group of pictures, and its verdict."""
    groups = bench.groups()
    yield ["queries -> references", "fit", *(f"{name} ({len(paths)})" for name, paths in groups.items())]
    for pair in bench.pairs():
        if pair.queries == pair.references:
            continue
        found = [compare(bench.of(pair.queries, paths), bench.of(pair.references, paths)) for paths in groups.values()]
        yield [str(pair), _answer(fits=pair.fits), *map(_figures, found)]


def _figures(found: Compatibility) -> str:
    verdict = "passes" if found.passed else "refused"
    return f"{verdict}: {100 * found.found:.1f} %, {found.cosine:.2f} against {found.others:.2f}"


def threshold_table(bench: Bench, splits: int) -> Iterator[list[str]]:
    """Measured false accepts and, in brackets, right answers."""
    student, teacher = bench.described("student"), bench.described("teacher")
    yield [
        "index",
        "queries -> references",
        "threshold from",
        "first is right",
        *(f"asked {far:.0%}" for far in WISHES),
    ]
    rows = (
        ("student", student, student, student),
        ("teacher", teacher, teacher, teacher),
        ("teacher's views", student, teacher, teacher),
        ("student's pictures", student, teacher, student),
    )
    for scene in SCENES:
        if scene.name not in COMPARED:
            continue
        for basis, asked, stored, impostors in rows:
            found = []
            for seed in range(splits):
                split = scene.split(student, np.random.default_rng(seed))
                values = [threshold_of(impostors, stored, split, far) for far in WISHES]
                found.append([accepts(asked, stored, split, value) for value in (-1.0, *values)])
            mean_rm = 100 * np.mean(found, axis=0)
            cells = [f"{false:.1f} ({true:.1f})" for false, true in mean_rm[1:]]
            yield [scene.name, _names(asked, stored, student), basis, f"{mean_rm[0, 1]:.1f}", *cells]


def _names(asked: Described, stored: Described, student: Described) -> str:
    return " -> ".join("student" if one is student else "teacher" for one in (asked, stored))


def threshold_of(impostors: Described, stored: Described, split: Split, far: float) -> float:
    """From what a model says of the indexed pictures, each compared with the other labels' stored descriptors."""
    labels = stored.labels[split.index]
    similarity_nn = impostors.descriptors[split.index] @ stored.descriptors[split.index].T
    similarity_nn[labels[:, None] == labels] = -np.inf
    names = [*map(str, labels)]
    return threshold_from_queries(similarity_nn.max(axis=1), names, far, len(set(names))).value


def accepts(asked: Described, stored: Described, split: Split, threshold: float) -> tuple[float, float]:
    """The shares of unknown things taken for a label and of known ones taken for theirs."""
    index_nd, labels = stored.descriptors[split.index], stored.labels[split.index]
    unknown_un, known_kn = (asked.descriptors[rows] @ index_nd.T for rows in (split.unknown, split.known))
    right_k = labels[known_kn.argmax(axis=1)] == stored.labels[split.known]
    return float(np.mean(unknown_un.max(axis=1) >= threshold)), float(
        np.mean((known_kn.max(axis=1) >= threshold) & right_k)
    )


def _answer(*, fits: bool) -> str:
    return "yes" if fits else "no"


@click.command(context_settings={"show_default": True})
@click.option("--photos", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--models", type=click.Path(path_type=Path), default=Path("runs/asymmetric"))
@click.option("--splits", default=100)
@reports_errors
def main(folder: Path, models: Path, splits: int) -> None:
    """Print what asymmetric search gains, and how pairs that fit are told from those that do not."""
    bench = Bench(folder, models)
    for title, rows in (
        ("mAP / recall@1, in percent", retrieval_table(bench)),
        ("mean cosine, share that find themselves, verdict", compatibility_table(bench)),
        ("false accepts (right answers), in percent", threshold_table(bench, splits)),
    ):
        click.echo(f"\n{title}\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
