"""Packages asked for where they are used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepir.errors import MissingDependency
from deepir.optional import need


def test_a_package_that_is_there_is_given() -> None:
    assert need("json") is json


@pytest.mark.parametrize(
    ("name", "extra"),
    [("cv2", "cpu"), ("openvino", "cpu"), ("tensorrt", "gpu"), ("pycuda.driver", "gpu"), ("torch", "train")],
)
def test_a_package_that_is_missing_names_itself_and_what_to_install(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingDependency, match=rf"needs the package {name.partition('.')[0]} .*pip install 'deepir\[{extra}\]'"
    ):
        need(name)


SESSION = """
from onnx import TensorProto, helper
from deepir.optional import need
numbers = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", numbers[:1], numbers[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
need("onnxruntime").InferenceSession(model.SerializeToString())
"""


def test_onnx_runtime_collects_nothing_about_the_machine(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    words = [sys.executable, "-c", SESSION]
    subprocess.run(words, env={**environment, "HOME": str(tmp_path)}, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []
