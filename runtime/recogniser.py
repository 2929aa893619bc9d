"""Image in, label out: the object to embed in a robot's program."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepir.errors import InputError, OptionError
from deepir.image import Image
from deepir.label_tree import common_ancestor
from deepir.runtime.backend import BackendOptions
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.items import Metadata
from deepir.runtime.label_search import TIE, Hit
from deepir.runtime.vote import Status

TOP_LABELS = 5

_GROWTH = 4
"""An answer that may be one of so many labels that more might be is searched again for so many times as many."""

_SHORTEST = 0.5
"""A descriptor has length 1, or 0 where the picture had no direction at all (a covered lens)."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one image shows.

    Attributes:
        status: `unknown` when the best similarity is below the threshold; `ambiguous` when the second label is nearer
            than the margin, so that the two cannot be told apart; else `match`.
        label: Of a match. Of an ambiguous answer what its labels have in common (`brand/product` of
            `brand/product/500g` and `brand/product/1kg`), None where that is nothing; None when unknown.
        similarity: Of the best view, -1..1; 0 for an empty index or a blank picture.
        margin: How far the second label is behind, 0..2; None when there is none.
        top: The best labels with the similarity of their best view, best first.
        milliseconds: Time spent in `prepare`, `describe` and `search`.
        candidates: The labels that it may be, best first: one of a match, more when ambiguous, none when unknown.
        hit: The most similar view with its metadata; None for an empty index or a blank picture.
    """

    status: Status
    label: str | None
    similarity: float
    margin: float | None
    top: tuple[tuple[str, float], ...]
    milliseconds: dict[str, float]
    candidates: tuple[str, ...] = ()
    hit: Hit | None = None

    @property
    def metadata(self) -> Metadata:
        """What was stored with the most similar view."""
        return {} if self.hit is None else self.hit.metadata


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """The descriptor of an image.

    Attributes:
        query_1d: (D,) of length 1; None for a blank picture, which has no direction (a covered lens).
        milliseconds: Time spent in `prepare` and `describe`.
    """

    query_1d: NDArray[np.float32] | None
    milliseconds: dict[str, float]


def described(query_1d: NDArray[np.float32], milliseconds: dict[str, float]) -> Described:
    """A model's answer as a query; a blank picture gives a descriptor without direction, which is none."""
    blank = float(np.linalg.norm(query_1d)) < _SHORTEST
    return Described(None if blank else query_1d, milliseconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """When an answer counts.

    Attributes:
        threshold: Least similarity, -1..1; `auto` is the one stored in the index.
        margin: Least distance to the second label, 0..1; `auto` is the one stored in the index; 0 for never ambiguous.
        top_labels: How many labels each answer lists.

    Raises:
        OptionError: A value out of range.
    """

    threshold: float | Literal["auto"] = "auto"
    margin: float | Literal["auto"] = "auto"
    top_labels: int = TOP_LABELS

    def __post_init__(self) -> None:
        if self.threshold != "auto" and not -1 <= self.threshold <= 1:
            message = f"the threshold must be auto or between -1 and 1, got {self.threshold}"
            raise OptionError(message)
        if self.margin != "auto" and not 0 <= self.margin <= 1:
            message = f"the margin must be auto or between 0 and 1, got {self.margin}"
            raise OptionError(message)
        if self.top_labels < 1:
            message = f"the number of labels to list must be 1 or more, got {self.top_labels}"
            raise OptionError(message)

    def threshold_of(self, index: Index) -> float | None:
        """The threshold for this index; None when it has fewer than two labels: then all is known."""
        if self.threshold != "auto":
            return float(self.threshold)
        return None if index.threshold is None else index.threshold.value

    def margin_of(self, index: Index) -> float:
        """The margin for this index."""
        return index.margin if self.margin == "auto" else float(self.margin)

    def search(self, query_1d: NDArray[np.float32], index: Index) -> list[Hit]:
        """The best view of each of the best labels: as many as are listed, and enough to judge by.

        That is two, so that there is a margin, and all within the margin as long as they share a branch: what they have
        in common must not depend on how many are listed.
        """
        wanted, margin = max(2, self.top_labels), self.margin_of(index)
        while True:
            hits = index.search_labels(query_1d, wanted)
            more = margin > 0 and len(hits) == wanted and hits[-1].similarity > hits[0].similarity - margin - TIE
            if not more or common_ancestor(_candidates(hits, margin)) is None:
                return hits
            wanted *= _GROWTH

    def judge(self, hits: Sequence[Hit], index: Index, milliseconds: dict[str, float]) -> Recognition:
        """The answer that the best view of each label, best first, gives."""
        threshold, margin = self.threshold_of(index), self.margin_of(index)
        similarity = hits[0].similarity if hits else 0.0
        known = bool(hits) and (threshold is None or similarity >= threshold)
        candidates = _candidates(hits, margin) if known else ()
        return Recognition(
            status="unknown" if not known else "match" if len(candidates) == 1 else "ambiguous",
            label=common_ancestor(candidates),
            similarity=similarity,
            margin=max(0.0, similarity - hits[1].similarity) if len(hits) > 1 else None,
            top=tuple((hit.label, hit.similarity) for hit in hits[: self.top_labels]),
            milliseconds=milliseconds,
            candidates=candidates,
            hit=hits[0] if hits else None,
        )


def _candidates(hits: Sequence[Hit], margin: float) -> tuple[str, ...]:
    """The first label, and those that are nearer to it than the margin.

    A label that lost a tie by its other views may have the more similar best view, even without a margin.
    """
    near = [hit for hit in hits[1:] if margin > 0 and hit.similarity > hits[0].similarity - margin]
    return tuple(hit.label for hit in (hits[0], *near))


class Recogniser:
    """A model and its index. Call it with an RGB image; not from two threads at once.

    Attributes:
        extractor: Describes the images.
        index: What they are compared with; another one of the same model may be put in its place between two calls.
        judgement: When an answer counts.
    """

    def __init__(self, extractor: Extractor, index: Index, judgement: Judgement | None = None) -> None:
        index.check_model(extractor.card)
        self.extractor = extractor
        self.index = index
        self.judgement = judgement or Judgement()

    @property
    def threshold(self) -> float | None:
        """Where `match` begins; None when the index has fewer than two labels: then all is `match`."""
        return self.judgement.threshold_of(self.index)

    @classmethod
    def open(
        cls,
        index_path: Path | str,
        model: Path | str | None = None,
        *,
        judgement: Judgement | None = None,
        options: BackendOptions | None = None,
    ) -> "Recogniser":
        """Load an index and the model that made it.

        Args:
            index_path: Written by deepir-index.
            model: Another place, or another form (INT8), of the same model; None takes what the index names.
            judgement: When an answer counts; by default as the index says.
            options: How the model runs; see `open_backend`.

        Raises:
            InputError: A file is missing.
            IndexFileError: The index is damaged or was made by another model.
        """
        index = Index.open(index_path)
        model_path = find_model(index, Path(index_path)) if model is None else Path(model)
        extractor = Extractor.open(model_path, options)
        try:
            return cls(extractor, index, judgement)
        except BaseException:
            extractor.close()
            raise

    def __call__(self, image: Image) -> Recognition:
        """Recognise one image, uint8 (H, W, 3) RGB.

        Raises:
            ShapeError: Not such an image.
            ModelError: The model gives NaN.
        """
        return self.answer(self.describe(image))

    def describe(self, image: Image) -> Described:
        """The descriptor of one image, for searches of your own.

        Raises:
            As of a call.
        """
        started = time.perf_counter()
        groups = self.extractor.prepare([image])
        prepared = time.perf_counter()
        descriptors_nd = self.extractor.run(groups, 1)
        times = {"prepare": prepared - started, "describe": time.perf_counter() - prepared}
        return described(descriptors_nd[0], {step: 1000 * seconds for step, seconds in times.items()})

    def answer(self, query: Described, index: Index | None = None) -> Recognition:
        """What the index says of a descriptor.

        Args:
            query: As `describe` gives it.
            index: Another one of the same model than `self.index`.
        """
        index = self.index if index is None else index
        started = time.perf_counter()
        hits = [] if query.query_1d is None else self.judgement.search(query.query_1d, index)
        search = 1000 * (time.perf_counter() - started)
        return self.judgement.judge(hits, index, {**query.milliseconds, "search": search})

    def close(self) -> None:
        """Give the model's memory back."""
        self.extractor.close()

    def __enter__(self) -> "Recogniser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_model(index: Index, index_path: Path, *, references: bool = False) -> Path:
    """The model file that an index names: seen from the index's folder, else where it was when the index was made.

    Args:
        index: Names its model.
        index_path: Where it lies.
        references: The model that describes stored pictures, where that is another one than describes queries.

    Raises:
        InputError: In neither place.
    """
    model = index.references if references else index.model
    if not model.absolute:
        message = f"{index_path} does not say which model made it ({index.foreign}): give --model MODEL.onnx"
        raise InputError(message)
    beside = (index_path.resolve().parent / model.relative).resolve()
    absolute = Path(model.absolute)
    for path in (beside, absolute):
        if path.is_file():
            return path
    message = (
        f"the model of {index_path} is neither at {beside} nor at {absolute}: "
        f"say where it is with --model MODEL.onnx (fingerprint {model.fingerprint})"
    )
    raise InputError(message)
