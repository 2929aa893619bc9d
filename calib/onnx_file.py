"""ONNX files that carry a model card: read, stamped, run, written."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import METADATA_KEY, OUTPUT_NAME, ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import ModelError
from deepir.files import replacing
from deepir.image import read_image
from deepir.inputs import model_inputs
from deepir.optional import need
from deepir.runtime.ort import DISABLED_OPTIMIZERS

Feeds = dict[str, NDArray[Any]]
"""What a model runs on, by the name of its input."""

_BATCH = 8


def read_onnx(path: Path) -> Any:
    """Load a file as onnx.ModelProto.

    Raises:
        ModelError: Missing, truncated, or not ONNX.
    """
    onnx = need("onnx")
    try:
        proto = onnx.load(path)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise ModelError(message) from error
    except Exception as error:  # the protobuf library has no public name for what it raises
        message = f"{path} is not an ONNX file or is damaged: {error}"
        raise ModelError(message) from error
    if not proto.graph.node:
        message = f"{path} is not an ONNX file or is damaged: it holds no graph"
        raise ModelError(message)
    return proto


def write_onnx(proto: Any, path: Path) -> None:
    """Write a model, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())


def read_card(proto: Any) -> ModelCard:
    """The card in a model's metadata.

    Raises:
        ModelError: The file was not written by deepir.
    """
    for entry in proto.metadata_props:
        if entry.key == METADATA_KEY:
            return ModelCard.from_json(entry.value)
    message = "this ONNX file has no deepir card: make it with deepir-export"
    raise ModelError(message)


def write_card(proto: Any, card: ModelCard) -> None:
    """Put a card into a model's metadata, in place of an older one."""
    kept = {entry.key: entry.value for entry in proto.metadata_props if entry.key != METADATA_KEY}
    need("onnx.helper").set_model_props(proto, {**kept, METADATA_KEY: card.to_json()})


def open_session(proto: Any) -> Any:
    """An ONNX Runtime session on the CPU: the reference for every other way to run a model."""
    onnxruntime = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        proto.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=DISABLED_OPTIMIZERS,
    )


def describe(proto: Any, card: ModelCard, paths: Sequence[Path]) -> Descriptors:
    """Descriptors of pictures by a model in memory, on the CPU: (N, D), in order.

    Args:
        proto: An onnx.ModelProto.
        card: Of that model.
        paths: Pictures on disk.

    Raises:
        InputError: A picture that cannot be read.
    """
    return Describer(proto, card)(paths)


class Describer:
    """Describes pictures as `describe` does, again and again, with one session."""

    def __init__(self, proto: Any, card: ModelCard) -> None:
        self._session = open_session(proto)
        self._card = card

    def __call__(self, paths: Sequence[Path]) -> Descriptors:
        """Descriptors of pictures: (N, D), in order.

        Raises:
            InputError: A picture that cannot be read.
        """
        batches = [_join_groups(self._session, groups) for groups in _groups(paths, self._card)]
        return np.concatenate(batches) if batches else np.empty((0, self._card.spec.dim), dtype=np.float32)


def prepared(paths: Sequence[Path], card: ModelCard) -> Iterator[Feeds]:
    """Pictures as a model's inputs, a batch at a time; those that come out at one size run together.

    Raises:
        InputError: A picture that cannot be read.
    """
    for groups in _groups(paths, card):
        yield from (feeds for _, feeds in groups)


def _groups(paths: Sequence[Path], card: ModelCard) -> Iterator[list[tuple[list[int], Feeds]]]:
    """For each batch of pictures its groups: their places in the batch, and what the model takes of them."""
    for start in range(0, len(paths), _BATCH):
        images = [read_image(path) for path in paths[start : start + _BATCH]]
        yield [
            (group.rows, dict(zip(card.inputs(), group.arrays, strict=True))) for group in model_inputs(images, card)
        ]


def _join_groups(session: Any, groups: list[tuple[list[int], Feeds]]) -> Descriptors:
    rows = np.concatenate([rows for rows, _ in groups])
    found: Descriptors = np.concatenate([session.run([OUTPUT_NAME], feeds)[0] for _, feeds in groups])
    return found[np.argsort(rows)]
