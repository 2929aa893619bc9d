"""Score a model on a dataset: mean average precision, recall, and what the rankings look like."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepir.card import ModelCard
from deepir.datasets import RetrievalSet, read_retrieval_sets
from deepir.descriptors import Descriptors, similarities
from deepir.distill.checkpoint import Model, load_model
from deepir.distill.describe import describe
from deepir.errors import InputError, OptionError
from deepir.image import Image, read_image
from deepir.runtime.backend import Device
from deepir.runtime.extractor import Extractor
from deepir.score import Scores, rank, score
from deepir.spec import Numerics, parse_scales

_BATCH = 8
_TIMED_RUNS = 15
_RANKED = 10

Describe = Callable[[Sequence[Image]], Descriptors]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under evaluation, whatever runs it.

    Attributes:
        parameters: How many numbers it has; None where the file does not say.
    """

    path: Path
    card: ModelCard
    runner: str
    describe: Describe
    parameters: int | None


def open_subject(path: Path, *, device: Device = "auto") -> Subject:
    """Open a checkpoint with torch, an .onnx file with ONNX Runtime.

    Raises:
        InputError: A file of another kind.
    """
    if path.suffix == ".safetensors":
        return subject_of_model(path, load_model(path))
    if path.suffix == ".onnx":
        extractor = Extractor.open(path, device=device)
        return Subject(path, extractor.card, extractor.backend.name, extractor.describe, None)
    message = f"cannot evaluate {path}: expected a .safetensors checkpoint or an .onnx file"
    raise InputError(message)


def open_at_scales(path: Path, scales: str) -> Subject:
    """Open a checkpoint at other resolutions than it was made for.

    Raises:
        OptionError: Not a checkpoint: an ONNX file has its size built in.
    """
    if path.suffix != ".safetensors":
        message = f"--scales needs a .safetensors checkpoint; {path} has its size built in"
        raise OptionError(message)
    model = load_model(path)
    sizes = parse_scales(scales, model.spec.size)
    return subject_of_model(path, Model(model.network, model.spec.at_sizes(sizes)))


def subject_of_model(path: Path, model: Model) -> Subject:
    """A torch model under evaluation; `path` is where its size on disk is read."""
    model.network.eval()
    card = ModelCard(model.spec, Numerics.FP32)
    return Subject(path, card, "torch", lambda images: describe(model, images), model.parameters)


def evaluate(subject: Subject, source: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """Score a subject on the sets of a dataset; the result is what `deepir-eval --json` prints.

    Raises:
        OptionError: A set that the dataset does not have.
        InputError: A picture that cannot be read.
    """
    sets = read_retrieval_sets(source)
    unknown = [name for name in names if name not in sets]
    if unknown:
        message = f"{source} has no set {', '.join(unknown)}; it has {', '.join(sets)}"
        raise OptionError(message)
    chosen = [sets[name] for name in names or sets]
    paths = sorted({path for dataset in chosen for path in _paths(dataset)})
    started = time.monotonic()
    descriptors = dict(zip(paths, describe_paths(subject, paths), strict=True))
    seconds = time.monotonic() - started
    spec = subject.card.spec
    return {
        "model": str(subject.path),
        "fingerprint": spec.fingerprint,
        "numerics": subject.card.numerics.value,
        "runner": subject.runner,
        "backbone": spec.backbone,
        "sizes": spec.sizes,
        "dim": spec.dim,
        "parameters": subject.parameters,
        "bytes": subject.path.stat().st_size,
        "images_per_second": round(len(paths) / seconds, 1),
        "milliseconds_per_image": milliseconds_per_image(subject, read_image(paths[0])),
        "average_precision": "trapezoid (Oxford)",
        "sets": {dataset.name: _score(dataset, descriptors) for dataset in chosen},
    }


def describe_paths(subject: Subject, paths: Sequence[Path]) -> Descriptors:
    """Descriptors of pictures on disk, (N, D)."""
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    return np.concatenate([subject.describe([read_image(path) for path in batch]) for batch in batches])


def milliseconds_per_image(subject: Subject, image: Image) -> float:
    """Median time for one decoded picture, preparation included, after two runs to warm up."""
    times = []
    for _ in range(_TIMED_RUNS + 2):
        started = time.perf_counter()
        subject.describe([image])
        times.append(time.perf_counter() - started)
    return round(1000 * statistics.median(times[2:]), 2)


def _paths(dataset: RetrievalSet) -> list[Path]:
    return [*dataset.database, *(query.image for query in dataset.queries)]


def _score(dataset: RetrievalSet, descriptors: dict[Path, Descriptors]) -> dict[str, Any]:
    queries = np.stack([descriptors[query.image] for query in dataset.queries])
    database = np.stack([descriptors[path] for path in dataset.database])
    scores = score(dataset, queries, database)
    return {
        "queries": len(queries),
        "database": len(database),
        "mean_ap": round(scores.mean_ap, 5),
        "recall_at": {str(k): round(value, 5) for k, value in scores.recall_at.items()},
        "average_precisions": [round(value, 5) for value in scores.average_precisions],
        "rankings": _rankings(dataset, scores, similarities(queries, database)),
    }


def _rankings(dataset: RetrievalSet, scores: Scores, similarity_qn: Descriptors) -> list[dict[str, Any]]:
    """The worst queries first, each with the head of its ranking."""
    worst = sorted(range(len(dataset.queries)), key=lambda query: scores.average_precisions[query])
    return [
        {
            "query": str(dataset.queries[query].image),
            "average_precision": round(scores.average_precisions[query], 5),
            "ranked": [
                {
                    "image": str(dataset.database[row]),
                    "similarity": round(float(similarity_qn[query, row]), 4),
                    "positive": dataset.database[row] in dataset.queries[query].positives,
                }
                for row in rank(query, dataset, similarity_qn[query])[:_RANKED]
            ],
        }
        for query in worst
    ]
