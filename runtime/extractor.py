"""Images in, descriptors out, in batches."""

import contextlib
import os
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import numpy as np

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import EngineError, ModelError, OptionError
from deepir.image import Box, Image, holds_pixels
from deepir.inputs import InputGroup, model_inputs
from deepir.reading import read_images
from deepir.runtime.backend import Backend, BackendOptions, open_backend
from deepir.spec import ModelSpec

BATCH_SIZE = 8
"""On a CPU larger batches gain nothing and cost memory."""


class Extractor:
    """Describes images with a model.

    Any thread may call it: runs of the model take turns. It belongs to the process that opened it.

    Attributes:
        backend: The loaded model.
        batch_size: Images for each run.
        why: Why this backend runs the model, in words; empty when it was given.
    """

    def __init__(self, backend: Backend, *, batch_size: int = BATCH_SIZE, why: str = "") -> None:
        if batch_size < 1:
            message = f"the batch size must be 1 or more, got {batch_size}"
            raise OptionError(message)
        self.backend = backend
        self.batch_size = batch_size
        self.why = why
        self._process = os.getpid()
        # the same thread may come again: a signal's handler that closes it in the middle of a run
        self._turn = threading.RLock()
        self._closed = False

    @classmethod
    def open(
        cls, model_path: Path | str, options: BackendOptions | None = None, *, batch_size: int = BATCH_SIZE
    ) -> "Extractor":
        """Load a model file; the options and errors are those of `open_backend`."""
        opened = open_backend(Path(model_path), options)
        return cls(opened.backend, batch_size=batch_size, why=opened.why)

    @property
    def card(self) -> ModelCard:
        """What the model file says of itself."""
        return self.backend.card

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self.backend.card.spec

    def describe(self, images: Sequence[Image], boxes: Sequence[Box | None] | None = None) -> Descriptors:
        """Descriptors (N, D) of RGB images, one row each, in order.

        Args:
            images: uint8 (H, W, 3).
            boxes: The part of each image to describe, as in `deepir.image.resize`; None for the whole.

        Raises:
            ShapeError: Not uint8 RGB images, or nothing of one lies in its box.
            ModelError: The model gives NaN, or descriptors of another size than its card says.
        """
        starts = range(0, len(images), self.batch_size)
        parts = [slice(start, start + self.batch_size) for start in starts]
        return self._joined([self._described(images[part], None if boxes is None else boxes[part]) for part in parts])

    def describe_files(self, paths: Sequence[Path]) -> Descriptors:
        """Descriptors (N, D) of image files; no more than a batch of them is in memory.

        Raises:
            InputError: A file is missing or not a picture.
        """
        with contextlib.closing(read_images(paths)) as images:
            batches = iter(lambda: list(islice(images, self.batch_size)), [])
            return self._joined([self._described(batch) for batch in batches])

    def prepare(self, images: Sequence[Image], boxes: Sequence[Box | None] | None = None) -> list[InputGroup]:
        """Images as the model's inputs, for `run`; any thread may do it while another one runs the model.

        Args and Raises: as `describe`, for no more images than `batch_size`.
        """
        return model_inputs(images, self.card, boxes)

    def sees(self, image: Image, box: Box) -> bool:
        """Whether anything of an image lies in a box, at each size that the model looks at."""
        return all(holds_pixels(box, image, self.spec, size) for size in self.spec.resolutions)

    def run(self, groups: Sequence[InputGroup], count: int) -> Descriptors:
        """Descriptors (count, D) of so many prepared images.

        Raises:
            ModelError: As of `describe`.
            EngineError: The model was closed, or opened before this process was forked.
        """
        # before the lock, which a fork may have copied while it was held
        if os.getpid() != self._process:
            message = (
                "this model was opened before the process was forked, and neither threads nor a GPU survive that: "
                "open it after the fork, or start the process by spawn"
            )
            raise EngineError(message)
        descriptors_nd = np.empty((count, self.spec.dim), dtype=np.float32)
        with self._turn:
            for group in groups:
                descriptors_nd[group.rows] = self._run(group)
        return descriptors_nd

    def close(self) -> None:
        """Give the model's memory back, when the run of another thread is over; in a forked process do nothing."""
        if os.getpid() != self._process:
            return
        with self._turn:
            self._closed = True
            self.backend.close()

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        message = "an Extractor holds a loaded model and cannot be pickled: pass the model's path and open it there"
        raise TypeError(message)

    def _run(self, group: InputGroup) -> Descriptors:
        if self._closed:
            message = "this model was closed: open it again"
            raise EngineError(message)
        described = self.backend.run(*group.arrays)
        if described.shape != (len(group.rows), self.spec.dim):
            message = (
                f"the model gives descriptors {described.shape} for {len(group.rows)} images, its card says "
                f"{self.spec.dim} values each: export it again"
            )
            raise ModelError(message)
        return described

    def _described(self, images: Sequence[Image], boxes: Sequence[Box | None] | None = None) -> Descriptors:
        return self.run(self.prepare(images, boxes), len(images))

    def _joined(self, batches: list[Descriptors]) -> Descriptors:
        return np.concatenate(batches) if batches else np.empty((0, self.spec.dim), dtype=np.float32)
