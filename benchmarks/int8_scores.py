"""What the poolings of a form of a trunk score, and how far its descriptors lie from those of FP32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from int8_maps import Pooled

from deepir.datasets import read_retrieval_sets, read_training_images
from deepir.descriptors import Descriptors, normalise
from deepir.errors import OptionError
from deepir.gate import GateLimits, judge
from deepir.pooling import FloatArray, rmac_tail
from deepir.retrieval_set import RetrievalSet
from deepir.score import Scores, score
from deepir.whitening import Whitening, fit_whitening

REFERENCES = "grocery_nat2ref"
DIM = 256
POWER = 0.25
LIMITS = GateLimits()


@dataclass(frozen=True, slots=True)
class Photos:
    """The pictures by the part they play.

    Attributes:
        source: The benchmark.json.
        sets: Those that are scored, by name.
        references: The pictures of goods that an index knows.
        train: The pictures that calibrate.
        pictures: All of them, those of the first sets first, `train` last, in the order of every array here.
    """

    source: Path
    sets: dict[str, RetrievalSet]
    references: list[Path]
    train: list[Path]
    pictures: list[Path]

    def rows(self, paths: Sequence[Path]) -> list[int]:
        row_of = {path: row for row, path in enumerate(self.pictures)}
        return [row_of[path] for path in paths]


def read_photos(folder: Path, names: Sequence[str] = ()) -> Photos:
    """Read `benchmark.json` in a folder; only the named sets, or all.

    Raises:
        OptionError: A set that it does not have.
    """
    source = folder / "benchmark.json"
    sets = read_retrieval_sets(source)
    unknown = [name for name in names if name not in sets]
    if unknown:
        message = f"no such set: {', '.join(unknown)}; {source} has {', '.join(sets)}"
        raise OptionError(message)
    references = list(sets[REFERENCES].database)
    train = [image.path for image in read_training_images(source)]
    chosen = {name: one for name, one in sets.items() if not names or name in names}
    scored = (path for one in chosen.values() for path in members(one))
    return Photos(source, chosen, references, train, _unique([*scored, *references, *train]))


def members(dataset: RetrievalSet) -> list[Path]:
    """The pictures of a set, each once."""
    return _unique([*dataset.database, *(query.image for query in dataset.queries)])


def whitenings(fp32: Pooled, poolings: Mapping[str, str], photos: Photos) -> dict[str, Whitening]:
    """For each pooling the whitening of its FP32 vectors, on `train` and the references with equal weight.

    Args:
        fp32: The pooled maps of all pictures.
        poolings: By the name of a pooling the one whose FP32 vectors it is whitened by.
        photos: Whose pictures they are.
    """
    groups = [photos.rows(photos.train), photos.rows(photos.references)]
    weights = [np.full(len(group), 1 / len(group)) for group in groups]
    fitted = {}
    for pooling in set(poolings.values()):
        vectors_nrc = normalise(fp32[pooling][np.concatenate(groups)])
        weights_n = np.repeat(np.concatenate(weights), vectors_nrc.shape[1])
        rows = vectors_nrc.reshape(-1, vectors_nrc.shape[2])
        fitted[pooling] = fit_whitening(rows, DIM, power=POWER, weights_n=weights_n)
    return {name: fitted[pooling] for name, pooling in poolings.items()}


def describe(vectors_nrc: FloatArray, whitening: Whitening) -> Descriptors:
    """Whitened descriptors (N, D) of pooled vectors."""
    return rmac_tail(vectors_nrc, whitening.weight_dc, whitening.bias_d)


def compare(reference_nd: Descriptors, found_nd: Descriptors, photos: Photos, names: Sequence[str]) -> dict[str, Any]:
    """For each named set what FP32 and the form score, and how near their descriptors are; `all` for all pictures.

    `standard_error` is that of the change of mAP, over the queries.

    Args:
        reference_nd: FP32 descriptors of `photos.pictures`, of the first ones at least.
        found_nd: Those of the form, of as many.
        photos: The sets.
        names: Of the sets to score.
    """
    sets = {}
    for name in names:
        dataset = photos.sets[name]
        rows = photos.rows(members(dataset))
        fp32, found = (_scored(dataset, descriptors_nd, photos) for descriptors_nd in (reference_nd, found_nd))
        changes = np.subtract(found.average_precisions, fp32.average_precisions)
        sets[name] = {
            **_closeness(reference_nd[rows], found_nd[rows]),
            "fp32": {"mean_ap": fp32.mean_ap, "recall_at_1": fp32.recall_at[1]},
            "found": {"mean_ap": found.mean_ap, "recall_at_1": found.recall_at[1]},
            "standard_error": float(changes.std(ddof=1) / np.sqrt(len(changes))),
        }
    scored = photos.rows(_unique([path for name in names for path in members(photos.sets[name])]))
    return {"sets": sets, "all": _closeness(reference_nd[scored], found_nd[scored])}


def _closeness(reference_nd: Descriptors, found_nd: Descriptors) -> dict[str, Any]:
    verdict = judge(reference_nd, found_nd, LIMITS)
    return {name: getattr(verdict, name) for name in ("passed", "cosine_min", "cosine_mean", "agreement", "images")}


def _scored(dataset: RetrievalSet, descriptors_nd: Descriptors, photos: Photos) -> Scores:
    queries = descriptors_nd[photos.rows([query.image for query in dataset.queries])]
    return score(dataset, queries, descriptors_nd[photos.rows(dataset.database)])


def _unique(paths: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))
