"""What every backend checks: that the arrays fit the model, and that what comes out are numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import REGIONS_INPUT, ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import ModelError, ShapeError


def check_arrays(card: ModelCard, arrays: Sequence[NDArray[Any]]) -> None:
    """Refuse arrays that are not what the file takes.

    Raises:
        ShapeError: Another number, type or shape of arrays than `ModelCard.inputs` and the description say.
    """
    names = card.inputs()
    if len(arrays) != len(names):
        message = f"this model takes {len(names)} arrays ({', '.join(names)}), got {len(arrays)}"
        raise ShapeError(message)
    for name, array, expected in zip(names, arrays, _expected(card), strict=True):
        dtype = "int32" if name.startswith(REGIONS_INPUT) else card.pixels
        fits = array.ndim == len(expected) and all(
            side is None or side == given for side, given in zip(expected, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            shape = ", ".join("any" if side is None else str(side) for side in expected)
            message = f"this model takes {name} as {dtype} ({shape}), got {array.dtype} of shape {array.shape}"
            raise ShapeError(message)
    counts = {len(array) for array in arrays[: len(card.spec.resolutions)]}
    if len(counts) > 1:
        message = f"each resolution needs the same pictures, got batches of {sorted(counts)}"
        raise ShapeError(message)


def check_descriptors(descriptors_nd: Descriptors, path: Path) -> Descriptors:
    """The descriptors, when all are numbers.

    Raises:
        ModelError: NaN or infinity.
    """
    if not np.isfinite(descriptors_nd).all():
        message = f"the model {path} gives NaN or infinity: its weights are damaged; export it again"
        raise ModelError(message)
    return descriptors_nd


def _expected(card: ModelCard) -> list[tuple[int | None, ...]]:
    """The shape of each input; None where any length will do."""
    shapes: list[tuple[int | None, ...]] = []
    for size in card.spec.resolutions:
        height, width = (None, None) if card.free_size or size is None else size
        shapes.append((None, height, width, 3) if card.pixels == "uint8" else (None, 3, height, width))
    regions: list[tuple[int | None, ...]] = [(None, 4)] * (len(card.inputs()) - len(shapes))
    return shapes + regions
