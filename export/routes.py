"""The two ways of an ONNX file into TensorRT: pooling in standard operators, or the node of our plugin."""

from typing import Any

from deepir.export.pool_graph import DOMAIN
from deepir.graph_names import POOL_OPERATOR
from deepir.optional import need


def native_form(proto: Any) -> Any:
    """A copy with every function's body in place of its node: any TensorRT takes it, whatever plugins it knows.

    The parser's own choice between function and plugin changed twice (tensorrt.md 1.4), so it is left none.
    """
    return need("onnx.inliner").inline_local_functions(proto)


def plugin_form(proto: Any) -> Any:
    """A copy in which every RoI max pool is a bare node RoIMaxPool without a body, and all else stands in place.

    Maps and resolutions have functions of their own (RoIMaxPoolAt16, ...), because their bodies know the size; the
    plugin needs no size, so that one operator serves them all.
    """
    bare = need("onnx").ModelProto()
    bare.CopyFrom(proto)
    for node in bare.graph.node:
        if _is_pool(node.domain, node.op_type):
            node.op_type = POOL_OPERATOR
    kept = [function for function in bare.functions if not _is_pool(function.domain, function.name)]
    del bare.functions[:]
    bare.functions.extend(kept)
    return need("onnx.inliner").inline_local_functions(bare)


def _is_pool(domain: str, name: str) -> bool:
    return domain == DOMAIN and name.startswith(POOL_OPERATOR)
