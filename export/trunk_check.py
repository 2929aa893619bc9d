"""Whether a trunk that was exported at one size is the same function as in torch at another."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.onnx_file import open_session
from deepir.card import INPUT_NAME
from deepir.errors import ModelError
from deepir.export.pool_graph import OPSET
from deepir.optional import need
from deepir.spec import Size

if TYPE_CHECKING:
    from deepir.distill.checkpoint import Model

_TOLERANCE = 1e-4
"""Largest difference from torch, relative to the largest value of the map."""

_SEED = 0


def map_sizes_at(graph: Any, model: "Model", size: Size) -> list[Size] | None:
    """Height and width of the maps that a trunk gives at a size; None where they are not those of torch.

    Args:
        graph: An onnx.GraphProto from `trunk_graph`, whatever size it was exported at.
        model: What it was exported from.
        size: Height and width of the pictures to try.
    """
    torch = need("torch")
    images = np.random.default_rng(_SEED).normal(size=(1, 3, *size)).astype(np.float32)
    with torch.inference_mode():
        expected = [map_nchw.numpy() for map_nchw in model.network.maps(torch.from_numpy(images))]
    try:
        found = _run(graph, images)
    except ModelError:
        return None
    if not all(map(_close, found, expected)):
        return None
    return [(map_nchw.shape[2], map_nchw.shape[3]) for map_nchw in expected]


def _close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    return found.shape == expected.shape and bool(
        np.abs(found - expected).max() <= _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    )


def _run(graph: Any, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What a trunk gives of images.

    Raises:
        ModelError: ONNX Runtime cannot run it at this size.
    """
    onnx = need("onnx")
    free = onnx.GraphProto()
    free.CopyFrom(graph)
    for value, dims in [(free.input[0], ["n", 3, "h", "w"]), *((out, None) for out in free.output)]:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, dims))
    proto = onnx.helper.make_model(free, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    try:
        maps: list[NDArray[np.float32]] = open_session(proto).run(None, {INPUT_NAME: images})
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        message = f"ONNX Runtime cannot run the trunk on {images.shape}: {error}"
        raise ModelError(message) from error
    return maps
