"""A graph run from convolution to convolution, so that each can be changed by what the changed ones before it give."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.calib.onnx_file import Feeds, open_session
from deepir.optional import need


class SteppedGraph:
    """A model, and what it has computed so far of some pictures."""

    def __init__(self, proto: Any, batches: Sequence[Feeds]) -> None:
        """Begin at the inputs.

        Args:
            proto: An onnx.ModelProto.
            batches: Its inputs; what lies between two convolutions is kept in memory for all of them.
        """
        self._proto = proto
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._live: list[Feeds] = [dict(feeds) for feeds in batches]
        self._steps = _steps(proto)

    def convolutions(self) -> Iterator[tuple[Any, list[NDArray[np.float32]]]]:
        """Each convolution's node and what it gives, a batch each; what is done to these arrays is what goes on."""
        for number, nodes in enumerate(self._steps):
            needed = {name for later in self._steps[number + 1 :] for node in later for name in node.input}
            self._run(nodes, needed)
            output = nodes[-1].output[0]
            yield nodes[-1], [live[output] for live in self._live]
            self._live = [{name: array for name, array in live.items() if name in needed} for live in self._live]

    def _run(self, nodes: list[Any], needed: set[str]) -> None:
        made = {name for node in nodes for name in node.output if name}
        read = {name for node in nodes for name in node.input if name}
        inputs = sorted(read - made - set(self._constants))
        outputs = sorted(made & needed | {nodes[-1].output[0]})
        session = open_session(self._part(nodes, inputs, outputs))
        for live in self._live:
            found = session.run(outputs, {name: live[name] for name in inputs})
            live.update(zip(outputs, found, strict=True))

    def _part(self, nodes: list[Any], inputs: list[str], outputs: list[str]) -> Any:
        onnx = need("onnx")
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(self._live[0][name].dtype) for name in inputs}
        constants = dict.fromkeys(name for node in nodes for name in node.input if name in self._constants)
        graph = onnx.helper.make_graph(
            nodes,
            "part",
            [onnx.helper.make_tensor_value_info(name, types[name], None) for name in inputs],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [self._constants[name] for name in constants],
        )
        part = onnx.helper.make_model(graph, functions=list(self._proto.functions))
        part.ir_version = self._proto.ir_version
        del part.opset_import[:]
        part.opset_import.extend(self._proto.opset_import)
        return part


def _steps(proto: Any) -> list[list[Any]]:
    """For each convolution the nodes that it needs and none before it did, in the order of the graph, itself last."""
    nodes = list(proto.graph.node)
    makers = {name: number for number, node in enumerate(nodes) for name in node.output}
    done: set[int] = set()
    steps = []
    for number, node in enumerate(nodes):
        if node.op_type != "Conv":
            continue
        step, waiting = set[int](), [number]
        while waiting:
            one = waiting.pop()
            if one not in done:
                done.add(one)
                step.add(one)
                waiting += [makers[name] for name in nodes[one].input if name in makers]
        steps.append([nodes[one] for one in sorted(step)])
    return steps
