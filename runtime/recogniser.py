"""Image in, label out: the object to embed in a robot's program."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from deepir.errors import IndexModelError, InputError, OptionError
from deepir.runtime.backend import BackendOptions
from deepir.runtime.extractor import Extractor
from deepir.runtime.fingerprint import read_fingerprint
from deepir.runtime.index import Index
from deepir.runtime.judgement import TOP_LABELS, Judgement, Recognition
from deepir.runtime.pixels import Order, as_boxes, as_image

__all__ = ["TOP_LABELS", "Described", "Judgement", "Recogniser", "Recognition", "described", "find_model"]

_WARMUPS = 3
"""An engine runs a shape plainly, then notes it as a CUDA graph, then runs the graph."""

_SHORTEST = 0.5
"""A descriptor has length 1, or 0 where the model finds no direction in the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """The descriptor of an image.

    Attributes:
        query_1d: (D,) of length 1; None where the model finds no direction, as some do in a blank picture (a covered
            lens). A model with a bias behind its pooling gives that a descriptor too, and the threshold must judge it.
        milliseconds: Time spent in `prepare` and `describe`.
    """

    query_1d: NDArray[np.float32] | None
    milliseconds: dict[str, float]


def described(query_1d: NDArray[np.float32], milliseconds: dict[str, float]) -> Described:
    """A model's answer as a query; a descriptor without direction is none."""
    has_direction = float(np.linalg.norm(query_1d)) >= _SHORTEST
    return Described(query_1d if has_direction else None, milliseconds)


class Recogniser:
    """A model and its index. Call it with a picture, from any thread: calls take turns at the model.

    Attributes:
        extractor: Describes the pictures.
        judgement: When an answer counts.
    """

    def __init__(self, extractor: Extractor, index: Index, judgement: Judgement | None = None) -> None:
        self.extractor = extractor
        self.index = index
        self.judgement = judgement or Judgement()

    @property
    def index(self) -> Index:
        """What the pictures are compared with.

        Another one of the same model may be put in its place at any time, and each answer comes from one of them.

        Raises:
            IndexModelError: What is put there was made by another model; the one before stays.
        """
        return self._index

    @index.setter
    def index(self, index: Index) -> None:
        index.check_model(self.extractor.card)
        self._index = index

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
            OptionError: What is no path.
            InputError: A file is missing.
            IndexFileError: The index is damaged or was made by another model.
        """
        for what, path in (("index", index_path), *([] if model is None else [("model", model)])):
            if not isinstance(path, (str, os.PathLike)):
                message = f"the {what} must be the path of a file, got {path!r}"
                raise OptionError(message)
        index = Index.open(index_path)
        model_path = find_model(index, Path(index_path)) if model is None else Path(model)
        extractor = Extractor.open(model_path, options)
        try:
            return cls(extractor, index, judgement)
        except BaseException:
            extractor.close()
            raise

    def __call__(self, picture: Any, *, order: Order = "rgb") -> Recognition:
        """Recognise one picture.

        Args:
            picture: uint8 (H, W, 3), (H, W, 4) or (H, W): numpy, torch, cupy, PIL and others, see
                `deepir.runtime.pixels`.
            order: Of its channels; OpenCV's pictures are `bgr`.

        Raises:
            ShapeError: Not such a picture.
            ModelError: The model gives NaN.
            EngineError: The model was closed, or opened before this process was forked.
        """
        return self.answer(self.describe(picture, order=order))

    def boxes(self, picture: Any, boxes: Any, *, order: Order = "rgb") -> list[Recognition]:
        """Recognise what lies in each box of a picture, several in one run of the model.

        Args:
            picture: As of a call.
            boxes: (N, 4) x1, y1, x2, y2 in pixels, an array or a list, or an object with such an `xyxy`, as
                supervision's Detections; cut to the picture.
            order: As of a call.

        Returns:
            One answer for each box, in order; their times for `prepare` and `describe` are those of all together.

        Raises:
            ShapeError: Nothing of the picture lies in a box; names it.
            As of a call.
        """
        image = as_image(picture, order)
        corners = as_boxes(boxes, image)
        extractor, prepare, describe = self.extractor, 0.0, 0.0
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(corners), extractor.batch_size):
            chunk = corners[start : start + extractor.batch_size]
            started = time.perf_counter()
            groups = extractor.prepare([image] * len(chunk), chunk)
            prepared = time.perf_counter()
            rows += list(extractor.run(groups, len(chunk)))
            prepare, describe = prepare + prepared - started, describe + time.perf_counter() - prepared
        times = {"prepare": 1000 * prepare, "describe": 1000 * describe}
        index = self.index
        return [self.answer(described(row, times), index) for row in rows]

    def describe(self, picture: Any, *, order: Order = "rgb") -> Described:
        """The descriptor of one picture, for searches of your own.

        Args and Raises: as of a call.
        """
        started = time.perf_counter()
        extractor = self.extractor
        groups = extractor.prepare([as_image(picture, order)])
        prepared = time.perf_counter()
        descriptors_nd = extractor.run(groups, 1)
        times = {"prepare": prepared - started, "describe": time.perf_counter() - prepared}
        return described(descriptors_nd[0], {step: 1000 * seconds for step, seconds in times.items()})

    def warmup(self) -> None:
        """Recognise noise a few times, so that the first picture of the camera does not wait for memory and kernels."""
        noise = np.random.default_rng(0).integers(0, 256, (*self.extractor.spec.size, 3), dtype=np.uint8)
        for _ in range(_WARMUPS):
            self(noise)

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
        """Give the model's memory back, when the call of another thread is over."""
        self.extractor.close()

    def __reduce__(self) -> NoReturn:
        message = "a Recogniser holds a loaded model and cannot be pickled: pass the index's path and open it there"
        raise TypeError(message)

    def __enter__(self) -> "Recogniser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_model(index: Index, index_path: Path, *, references: bool = False) -> Path:
    """The model file that an index names: seen from the index's folder, else where it was when the index was made.

    Another model of the same name in the first place is passed over.

    Args:
        index: Names its model.
        index_path: Where it lies.
        references: The model that describes stored pictures, where that is another one than describes queries.

    Raises:
        InputError: In neither place is a file.
        IndexModelError: There are only other models.
    """
    model = index.references if references else index.model
    if not model.absolute:
        message = f"{index_path} does not say which model made it ({index.foreign}): give --model MODEL.onnx"
        raise InputError(message)
    beside = (index_path.resolve().parent / model.relative).resolve()
    absolute = Path(model.absolute)
    found = {path: read_fingerprint(path) for path in (beside, absolute) if path.is_file()}
    # a file without a fingerprint is damaged, and who opens it says how
    for wanted in (model.fingerprint, None):
        for path, fingerprint in found.items():
            if fingerprint == wanted:
                return path
    if found:
        others = " and ".join(f"{path} is the model {fingerprint}" for path, fingerprint in found.items())
        message = (
            f"{index_path} was made by the model {model.fingerprint} ({absolute}), but {others}: "
            "say where its model is with --model MODEL.onnx, or make the index again with deepir-index rebuild --model"
        )
        raise IndexModelError(message)
    message = (
        f"the model of {index_path} is neither at {beside} nor at {absolute}: "
        f"say where it is with --model MODEL.onnx (fingerprint {model.fingerprint})"
    )
    raise InputError(message)
