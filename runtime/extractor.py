"""Images in, descriptors out, in batches."""

import contextlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import ModelError, OptionError
from deepir.image import Image, prepare_batch
from deepir.reading import read_images
from deepir.runtime.backend import Backend, Device, open_backend
from deepir.spec import ModelSpec

BATCH_SIZE = 8
"""On a CPU larger batches gain nothing and cost memory."""


class Extractor:
    """Describes images with a model.

    Attributes:
        backend: The loaded model.
        batch_size: Images for each run.
    """

    def __init__(self, backend: Backend, *, batch_size: int = BATCH_SIZE) -> None:
        if batch_size < 1:
            message = f"the batch size must be 1 or more, got {batch_size}"
            raise OptionError(message)
        self.backend = backend
        self.batch_size = batch_size

    @classmethod
    def open(
        cls, model_path: Path | str, *, device: Device = "auto", threads: int = 0, batch_size: int = BATCH_SIZE
    ) -> "Extractor":
        """Load a model file; the errors are those of `open_backend`."""
        return cls(open_backend(Path(model_path), device, threads=threads), batch_size=batch_size)

    @property
    def card(self) -> ModelCard:
        """What the model file says of itself."""
        return self.backend.card

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self.backend.card.spec

    def describe(self, images: Sequence[Image]) -> Descriptors:
        """Descriptors (N, D) of RGB images, one row each, in order.

        Raises:
            ShapeError: Not uint8 RGB images.
            ModelError: The model gives NaN, or descriptors of another size than its card says.
        """
        batches = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        return self._joined([self._run(batch) for batch in batches])

    def describe_files(self, paths: Sequence[Path]) -> Descriptors:
        """Descriptors (N, D) of image files; no more than a batch of them is in memory.

        Raises:
            InputError: A file is missing or not a picture.
        """
        with contextlib.closing(read_images(paths)) as images:
            return self._joined([self._run(batch) for batch in iter(lambda: list(islice(images, self.batch_size)), [])])

    def close(self) -> None:
        """Give the model's memory back."""
        self.backend.close()

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, images: Sequence[Image]) -> Descriptors:
        descriptors_nd = self.backend.run(prepare_batch(list(images), self.spec))
        if descriptors_nd.shape != (len(images), self.spec.dim):
            message = (
                f"the model gives descriptors {descriptors_nd.shape} for {len(images)} images, its card says "
                f"{self.spec.dim} values each: export it again"
            )
            raise ModelError(message)
        return descriptors_nd

    def _joined(self, batches: list[Descriptors]) -> Descriptors:
        return np.concatenate(batches) if batches else np.empty((0, self.spec.dim), dtype=np.float32)
