"""Graphs that few exporters write: the quantiser leaves alone what it cannot do, and does not fall over it."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepir.calib.bias import add_biases
from deepir.calib.equalise import equalise, find_factors
from deepir.calib.quantise import int8_share, place, quantise
from deepir.calib.ranges import measure_statistics
from deepir.errors import ModelError

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3, 1, 1))


def model(nodes: list[Any], outputs: list[str], **constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 10, 10])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *"chw"]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


@pytest.mark.parametrize("small", [0.001, 0.1])
def test_an_output_of_the_graph_keeps_its_channels_behind_a_bound_too(small: float) -> None:
    proto = model(
        [
            node("Conv", ["images", "wa"], "a"),
            node("Conv", ["images", "wb"], "b"),
            node("Concat", ["a", "b"], "joined", axis=1),
            node("Clip", ["joined", "low", "high"], "clipped"),
            node("Conv", ["clipped", "wc"], "c"),
        ],
        ["c", "a"],
        wa=WEIGHTS,
        wb=small * WEIGHTS,
        wc=np.ones((4, 8, 1, 1)),
        low=0,
        high=0.3,
    )
    images = RNG.normal(size=(2, 3, 10, 10)).astype(np.float32)
    statistics = measure_statistics(proto, place(proto).tensors, lambda: [{"images": images}])
    balanced = equalise(proto, find_factors(proto, statistics))
    first = next(tensor for tensor in balanced.graph.initializer if tensor.name == "wa")
    np.testing.assert_array_equal(numpy_helper.to_array(first), WEIGHTS.astype(np.float32))


def test_a_constant_may_be_the_first_input_of_a_sum() -> None:
    constant = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32))
    proto = model(
        [
            node("Constant", [], "k", value=constant),
            node("Relu", ["images"], "positive"),
            node("Add", ["k", "positive"], "sum"),
            node("Conv", ["sum", "w"], "o"),
        ],
        ["o"],
        w=WEIGHTS,
    )
    assert place(proto).tensors == ["sum"]


def test_a_bias_that_two_convolutions_share_changes_for_one() -> None:
    proto = model(
        [node("Conv", ["images", "w", "a/bias"], "a"), node("Conv", ["images", "w", "a/bias"], "b")],
        ["a", "b"],
        w=WEIGHTS,
        **{"a/bias": np.zeros(4)},
    )
    add_biases(proto, {"a": [1.0] * 4})
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert [constants[one.input[2]][0] for one in proto.graph.node] == [1, 0]


def test_computed_weights_stay_in_float() -> None:
    computed = [node("Identity", ["w"], "w2"), node("Conv", ["images", "w2"], "a")]
    with pytest.raises(ModelError, match="no convolutions"):
        place(model(computed, ["a"], w=WEIGHTS))
    proto = model([*computed, node("Conv", ["images", "w"], "b")], ["a", "b"], w=WEIGHTS)
    assert int8_share(quantise(proto, place(proto), {"images": 3.0})) == 0.5


def test_what_is_computed_of_constants_has_no_channels() -> None:
    proto = model([node("Relu", ["w"], "w2"), node("Conv", ["images", "w"], "o")], ["o", "w2"], w=WEIGHTS)
    statistics = measure_statistics(proto, ["images"], lambda: [{"images": np.ones((1, 3, 10, 10), np.float32)}])
    assert find_factors(proto, statistics) == {}
