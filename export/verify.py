"""The proof after an export: the ONNX file gives what the model it was made from gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepir.calib.onnx_file import open_session, read_card
from deepir.card import OUTPUT_NAME, ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import GateError
from deepir.image import Image, read_image
from deepir.inputs import InputGroup, model_inputs
from deepir.optional import need
from deepir.runtime.self_check import made_up_pictures

if TYPE_CHECKING:
    from deepir.distill.checkpoint import Model

_LARGEST_PROOF = 32
_MADE_UP = 8
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two descriptors of one picture may be apart."""

    largest_difference: float
    least_cosine: float


FP32_TOLERANCE = Tolerance(largest_difference=1e-4, least_cosine=0.99999)
FP16_TOLERANCE = Tolerance(largest_difference=2e-2, least_cosine=0.999)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the comparison found."""

    largest_difference: float
    least_cosine: float
    pictures: str

    def __str__(self) -> str:
        return (
            f"max |difference| {self.largest_difference:.1e}, least cosine {self.least_cosine:.7f} on {self.pictures}"
        )


def prove(proto: Any, model: "Model", paths: Sequence[Path], tolerance: Tolerance) -> Proof:
    """Compare an ONNX model with the torch model on pictures, or on made-up ones when there are none.

    Raises:
        GateError: They differ by more than the tolerance, a batch differs from its pictures one by one, or the graph
            from its form without functions, which is what TensorRT and OpenVINO read.
        InputError: A picture that cannot be read.
    """
    from deepir.distill.describe import describe

    return _compare(proto, lambda images: describe(model, images), paths, tolerance)


def prove_against(proto: Any, master: Any, paths: Sequence[Path], tolerance: Tolerance) -> Proof:
    """Compare an ONNX model with the FP32 model it was made from; otherwise as `prove`."""
    runner = _Runner(master)
    return _compare(proto, lambda images: runner.describe(_groups(images, runner.card)), paths, tolerance)


def _compare(
    proto: Any, expect: Callable[[Sequence[Image]], Descriptors], paths: Sequence[Path], tolerance: Tolerance
) -> Proof:
    runner = _Runner(proto)
    images = [read_image(path) for path in paths[:_LARGEST_PROOF]] or made_up_pictures(runner.card.spec, _MADE_UP)
    groups = _groups(images, runner.card)
    found, expected = runner.describe(groups), expect(images)
    words = f"{len(images)} {'pictures' if paths else 'made-up pictures (give --images for real ones)'}"
    proof = Proof(_difference(found, expected), float(np.sum(found * expected, axis=1).min()), words)
    largest = max(groups, key=lambda group: len(group.rows))
    single = [_one_of(largest, place, runner.card) for place in (0, -1)]
    inlined = _Runner(need("onnx.inliner").inline_local_functions(proto))
    one_by_one = _difference(runner.describe(single), found[[group.rows[0] for group in single]])
    expanded = _difference(inlined.describe([largest]), found[largest.rows])
    differences = (proof.largest_difference, one_by_one, expanded)
    # asked so that NaN fails too
    if not all(value <= tolerance.largest_difference for value in differences) or not (
        proof.least_cosine >= tolerance.least_cosine
    ):
        message = (
            f"the ONNX file is not the same function as its model: {proof}, batch against single {one_by_one:.1e}, "
            f"without its functions {expanded:.1e}"
        )
        raise GateError(message)
    return proof


class _Runner:
    """A model in ONNX Runtime, and what it says of itself."""

    def __init__(self, proto: Any) -> None:
        self.card = read_card(proto)
        self._session = open_session(proto)

    def describe(self, groups: Sequence[InputGroup]) -> Descriptors:
        """Descriptors of the pictures of some groups, (N, D), in the order of their rows."""
        feeds = [dict(zip(self.card.inputs(), group.arrays, strict=True)) for group in groups]
        found: Descriptors = np.concatenate([self._session.run([OUTPUT_NAME], feed)[0] for feed in feeds])
        return found[np.argsort([row for group in groups for row in group.rows])]


def _difference(found: Descriptors, expected: Descriptors) -> float:
    return float(np.abs(found - expected).max())


def _groups(images: Sequence[Image], card: ModelCard) -> list[InputGroup]:
    """Pictures as inputs, a batch at a time, which bounds the memory."""
    return [
        InputGroup([start + row for row in group.rows], group.arrays)
        for start in range(0, len(images), _BATCH)
        for group in model_inputs(images[start : start + _BATCH], card)
    ]


def _one_of(group: InputGroup, place: int, card: ModelCard) -> InputGroup:
    """One picture of a group, by its place in it; windows are those of all its pictures."""
    row = range(len(group.rows))[place]
    count = len(card.spec.resolutions)
    arrays = [array[row : row + 1] if number < count else array for number, array in enumerate(group.arrays)]
    return InputGroup([group.rows[row]], tuple(arrays))
