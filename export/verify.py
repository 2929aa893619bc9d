"""The proof after an export: the ONNX file gives what the model it was made from gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepir.calib.onnx_file import open_session, read_card
from deepir.card import INPUT_NAME, OUTPUT_NAME
from deepir.descriptors import Descriptors
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe
from deepir.errors import GateError
from deepir.image import Image, Images, prepare_batch, read_image
from deepir.spec import ModelSpec

_LARGEST_PROOF = 32
_PATTERNS = 8
_SEED = 0


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


def prove(proto: Any, model: Model, paths: Sequence[Path], tolerance: Tolerance) -> Proof:
    """Compare an ONNX model with the torch model on pictures, or on made-up patterns when there are none.

    Raises:
        GateError: They differ by more than the tolerance, or a batch differs from its pictures one by one.
        InputError: A picture that cannot be read.
    """
    images = _proof_images(paths, model.spec)
    return _compare(proto, describe(model, images), prepare_batch(images, model.spec), tolerance, real=bool(paths))


def prove_against(proto: Any, master: Any, paths: Sequence[Path], tolerance: Tolerance) -> Proof:
    """Compare an ONNX model with the FP32 model it was made from; otherwise as `prove`."""
    spec = read_card(master).spec
    prepared = prepare_batch(_proof_images(paths, spec), spec)
    return _compare(proto, _run(master, prepared), prepared, tolerance, real=bool(paths))


def _compare(proto: Any, expected: Descriptors, prepared: Images, tolerance: Tolerance, *, real: bool) -> Proof:
    together, single = _run(proto, prepared), _run(proto, prepared[:1])
    pictures = f"{len(prepared)} {'pictures' if real else 'made-up patterns (give --images for real pictures)'}"
    proof = Proof(float(np.abs(together - expected).max()), float(np.sum(together * expected, axis=1).min()), pictures)
    one_by_one = float(np.abs(together[:1] - single).max())
    if not max(proof.largest_difference, one_by_one) <= tolerance.largest_difference or not (
        proof.least_cosine >= tolerance.least_cosine
    ):
        message = f"the ONNX file is not the same function as its model: {proof}, batch against single {one_by_one:.1e}"
        raise GateError(message)
    return proof


def _run(proto: Any, prepared: Images) -> Descriptors:
    descriptors: Descriptors = open_session(proto).run([OUTPUT_NAME], {INPUT_NAME: prepared})[0]
    return descriptors


def _proof_images(paths: Sequence[Path], spec: ModelSpec) -> list[Image]:
    return [read_image(path) for path in paths[:_LARGEST_PROOF]] or _patterns(spec)


def _patterns(spec: ModelSpec) -> list[Image]:
    """Random blocks of colour, so that there is something at every scale."""
    generator = np.random.default_rng(_SEED)
    height, width = spec.size
    coarse = generator.integers(0, 256, (_PATTERNS, 16, 16, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 16 // height, np.arange(width) * 16 // width
    return [np.ascontiguousarray(pattern[rows][:, columns]) for pattern in coarse]
