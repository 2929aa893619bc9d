"""A checkpoint as one ONNX file: trunk, the node deepir::RoIMaxPool with a body in standard operators, the head.

A model of several resolutions is one graph too: the nodes are repeated for each of them, the weights are not.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deepir.calib.onnx_check import check
from deepir.calib.onnx_file import write_card
from deepir.card import OUTPUT_NAME, ModelCard, PixelType
from deepir.errors import OptionError
from deepir.export.assembly import GraphAssembly
from deepir.export.free_trunk import free_trunk_graph
from deepir.export.head_graph import HeadGraph, MapRegions, last_nodes
from deepir.export.input_graph import input_infos
from deepir.export.pool_graph import DOMAIN, OPSET
from deepir.export.trunk_check import map_sizes_at
from deepir.export.trunk_graph import trunk_graph
from deepir.optional import need
from deepir.regions import head_windows
from deepir.spec import ModelSpec, Size

if TYPE_CHECKING:
    from deepir.distill.checkpoint import Model

IR_VERSION = 8
"""Read, with opset 17, by every TensorRT from 8.5 to 11 and by ONNX Runtime (tensorrt.md 1.4)."""


def build_onnx(model: "Model", *, pixels: PixelType = "float32", free_size: bool | None = None) -> Any:
    """The FP32 master of a model as an onnx.ModelProto; its metadata holds the model card.

    Args:
        model: In evaluation mode.
        pixels: `uint8` lets the graph take resized RGB pictures (N, H, W, 3) and normalise them itself.
        free_size: Whether height and width are free and the windows are inputs; by default where the pictures of
            the spec come at several sizes, which are not all described.

    Raises:
        OptionError: A fixed size for pictures of several sizes, a free one for a trunk that has its size built in, or
            a trunk that cannot be expressed in opset 17.
        ModelError: The result fails ONNX's own check.
    """
    onnx = need("onnx")
    network = model.network
    strides = network.strides if _is_free(model.spec, free_size) else ()
    card = ModelCard(model.sealed().spec, pixels=pixels, strides=strides)
    assembly = GraphAssembly(card)
    descriptors = [
        assembly.append_resolution(number, trunk, HeadGraph(network, regions))
        for number, (trunk, regions) in enumerate(_free_trunks(model) if strides else _fixed_trunks(model))
    ]
    assembly.append_last(last_nodes(network, descriptors))
    output = onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["batch", network.dim])
    graph = onnx.helper.make_graph(
        assembly.nodes, "deepir", input_infos(card), [output], list(assembly.constants.values())
    )
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, 1)]
    proto = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, functions=assembly.functions, producer_name="deepir"
    )
    write_card(proto, card)
    check(proto)
    return proto


def _is_free(spec: ModelSpec, wish: bool | None) -> bool:
    if wish is False and spec.resize != "stretch":
        message = (
            f"pictures of a model with resize {spec.resize} come at several sizes, so its file cannot have a fixed "
            "one: give the size, as in deepir-export --size 384x512"
        )
        raise OptionError(message)
    return spec.resize != "stretch" if wish is None else wish


def _free_trunks(model: "Model") -> Iterator[tuple[Any, None]]:
    """For each resolution the trunk; what is pooled of its maps comes from outside."""
    trunk = free_trunk_graph(model)
    yield from ((trunk, None) for _ in model.spec.resolutions)


def _fixed_trunks(model: "Model") -> Iterator[tuple[Any, list[MapRegions]]]:
    """For each resolution the trunk, exported again only where it is not the same, and what is pooled of its maps."""
    trunks: list[Any] = []
    for size in model.spec.sizes:
        known = ((trunk, map_sizes_at(trunk, model, size)) for trunk in trunks)
        trunk, map_sizes = next((pair for pair in known if pair[1] is not None), (None, None))
        if map_sizes is None:
            trunk = trunk_graph(model, size)
            trunks.append(trunk)
            map_sizes = [_map_size(value) for value in trunk.output]
        yield (
            trunk,
            [
                MapRegions(head_windows(model.spec.head, size, map_size, stride), map_size)
                for map_size, stride in zip(map_sizes, model.network.strides, strict=True)
            ],
        )


def _map_size(value: Any) -> Size:
    height, width = (dim.dim_value for dim in value.type.tensor_type.shape.dim[2:])
    return height, width
