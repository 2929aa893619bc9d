"""Image in, label out: the object to embed in a robot's program."""

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from deepir.errors import InputError, OptionError
from deepir.image import Image
from deepir.inputs import model_inputs
from deepir.runtime.backend import BackendOptions
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import DescriptorIndex, Hit

TOP_LABELS = 5

_SHORTEST = 0.5
"""A descriptor has length 1, or 0 where the picture had no direction at all (a covered lens)."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one image shows.

    Attributes:
        status: `unknown` when the best similarity is below the threshold.
        label: None when unknown.
        similarity: Of the best view; 0 for an empty index or a blank picture.
        margin: How far the second label is behind; None when there is none.
        top: The best labels with the similarity of their best view, best first.
        milliseconds: Time spent in `prepare`, `describe` and `search`.
    """

    status: Literal["match", "unknown"]
    label: str | None
    similarity: float
    margin: float | None
    top: tuple[tuple[str, float], ...]
    milliseconds: dict[str, float]


class Recogniser:
    """A model and its index. Call it with an RGB image; not from two threads at once.

    Attributes:
        extractor: Describes the images.
        index: What they are compared with.
        threshold: Where `match` begins; None when the index has fewer than two labels: then all is `match`.
        top_labels: How many labels each answer lists.
    """

    def __init__(
        self,
        extractor: Extractor,
        index: DescriptorIndex,
        *,
        threshold: float | Literal["auto"] = "auto",
        top_labels: int = TOP_LABELS,
    ) -> None:
        index.check_model(extractor.card)
        if top_labels < 1:
            message = f"the number of labels to list must be 1 or more, got {top_labels}"
            raise OptionError(message)
        self.extractor = extractor
        self.index = index
        self.threshold = _threshold(index, threshold)
        self.top_labels = top_labels

    @classmethod
    def open(
        cls,
        index_path: Path | str,
        model: Path | str | None = None,
        *,
        threshold: float | Literal["auto"] = "auto",
        options: BackendOptions | None = None,
        top_labels: int = TOP_LABELS,
    ) -> "Recogniser":
        """Load an index and the model that made it.

        Args:
            index_path: Written by deepir-index.
            model: Another place, or another form (INT8), of the same model; None takes what the index names.
            threshold: `auto` is the one stored in the index.
            options: How the model runs; see `open_backend`.
            top_labels: How many labels each answer lists.

        Raises:
            InputError: A file is missing.
            IndexFileError: The index is damaged or was made by another model.
        """
        index = DescriptorIndex.open(index_path)
        model_path = find_model(index, Path(index_path)) if model is None else Path(model)
        extractor = Extractor.open(model_path, options)
        try:
            return cls(extractor, index, threshold=threshold, top_labels=top_labels)
        except BaseException:
            extractor.close()
            raise

    def __call__(self, image: Image) -> Recognition:
        """Recognise one image, uint8 (H, W, 3) RGB.

        Raises:
            ShapeError: Not such an image.
            ModelError: The model gives NaN.
        """
        started = time.perf_counter()
        (group,) = model_inputs([image], self.extractor.card)
        prepared = time.perf_counter()
        query_1d = self.extractor.backend.run(*group.arrays)[0]
        described = time.perf_counter()
        # one more than the second label, so that the margin exists when only one label is listed
        blank = float(np.linalg.norm(query_1d)) < _SHORTEST
        hits = [] if blank else self.index.search_labels(query_1d, max(2, self.top_labels))
        searched = time.perf_counter()
        times = {"prepare": prepared - started, "describe": described - prepared, "search": searched - described}
        return self._judge(hits, {step: 1000 * seconds for step, seconds in times.items()})

    def close(self) -> None:
        """Give the model's memory back."""
        self.extractor.close()

    def __enter__(self) -> "Recogniser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _judge(self, hits: list[Hit], milliseconds: dict[str, float]) -> Recognition:
        similarity = hits[0].similarity if hits else 0.0
        known = bool(hits) and (self.threshold is None or similarity >= self.threshold)
        return Recognition(
            status="match" if known else "unknown",
            label=hits[0].label if known else None,
            similarity=similarity,
            margin=similarity - hits[1].similarity if len(hits) > 1 else None,
            top=tuple((hit.label, hit.similarity) for hit in hits[: self.top_labels]),
            milliseconds=milliseconds,
        )


def find_model(index: DescriptorIndex, index_path: Path) -> Path:
    """The model file that an index names: seen from the index's folder, else where it was when the index was made.

    Raises:
        InputError: In neither place.
    """
    beside = (index_path.resolve().parent / index.model.relative).resolve()
    absolute = Path(index.model.absolute)
    for path in (beside, absolute):
        if path.is_file():
            return path
    message = (
        f"the model of {index_path} is neither at {beside} nor at {absolute}: "
        f"say where it is with --model MODEL.onnx (fingerprint {index.model.fingerprint})"
    )
    raise InputError(message)


def _threshold(index: DescriptorIndex, threshold: float | Literal["auto"]) -> float | None:
    if threshold == "auto":
        return None if index.threshold is None else index.threshold.value
    if not -1 <= threshold <= 1:
        message = f"the threshold must be auto or between -1 and 1, got {threshold}"
        raise OptionError(message)
    return float(threshold)
