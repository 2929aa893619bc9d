"""The inputs of an exported graph: what they are called, what they hold, and the normalisation of uint8 pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import REGIONS_INPUT, ModelCard
from deepir.graph_names import PREPARED_NAME
from deepir.image import pixel_scale
from deepir.optional import need

_SCALE, _SHIFT = "pixel_scale", "pixel_shift"


def input_infos(card: ModelCard) -> list[Any]:
    """The graph's inputs, in the order of the card."""
    onnx = need("onnx")
    make = onnx.helper.make_tensor_value_info
    types = onnx.TensorProto
    sizes = card.spec.resolutions
    infos = []
    for number, name in enumerate(card.inputs()):
        if name.startswith(REGIONS_INPUT):
            infos.append(make(name, types.INT32, [f"{name}_count", 4]))
            continue
        size = sizes[number]
        mark = "" if len(sizes) == 1 else f"_{number}"
        height_width = [f"height{mark}", f"width{mark}"] if card.free_size or size is None else list(size)
        shape = ["batch", *height_width, 3] if card.pixels == "uint8" else ["batch", 3, *height_width]
        infos.append(make(name, types.UINT8 if card.pixels == "uint8" else types.FLOAT, shape))
    return infos


def normalising_nodes(images: str) -> list[Any]:
    """From uint8 (N, H, W, 3) to PREPARED_NAME, with the arithmetic of `deepir.image.prepare`."""
    onnx = need("onnx")
    make = onnx.helper.make_node
    return [
        make("Cast", [images], ["pixels"], name="pixels", to=onnx.TensorProto.FLOAT),
        make("Mul", ["pixels", _SCALE], ["scaled"], name="scaled"),
        make("Sub", ["scaled", _SHIFT], ["shifted"], name="shifted"),
        make("Transpose", ["shifted"], [PREPARED_NAME], name=PREPARED_NAME, perm=[0, 3, 1, 2]),
    ]


def normalising_constants(card: ModelCard) -> dict[str, NDArray[np.float32]]:
    """What those nodes multiply by and subtract."""
    scale, shift = pixel_scale(card.spec)
    return {_SCALE: scale, _SHIFT: shift}
