"""What a robot imports stays light: no heavy package, and little time beyond numpy, usearch and click."""

import json
import statistics
import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "cv2", "onnxruntime", "openvino", "rich", "tensorrt", "tensorrt_rtx", "pycuda", "starlette"}
MOST_SECONDS = 0.3
PROCESSES = 5

LOADED = "import json, sys, deepir.runtime; sys.stdout.write(json.dumps(sorted(sys.modules)))"
LOADED_BY_ALL_MODULES = """
import importlib, json, pkgutil, sys
import deepir.runtime
for module in pkgutil.walk_packages(deepir.runtime.__path__, "deepir.runtime."):
    importlib.import_module(module.name)
sys.stdout.write(json.dumps(sorted(sys.modules)))
"""
# processor time of the process: what else the machine does at the moment does not count
COST = """
import sys, time
import click, numpy, usearch.index
before = time.process_time()
import deepir.runtime
sys.stdout.write(str(time.process_time() - before))
"""


def output_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("program", [LOADED, LOADED_BY_ALL_MODULES], ids=["the package", "every module of it"])
def test_the_runtime_loads_no_heavy_package(program: str) -> None:
    loaded = {module.partition(".")[0] for module in json.loads(output_of(program))}
    assert "deepir" in loaded
    assert loaded & HEAVY == set()


def test_the_import_of_the_runtime_costs_little_beyond_numpy_usearch_and_click() -> None:
    output_of(COST)  # the first run may still compile
    seconds = statistics.median(float(output_of(COST)) for _ in range(PROCESSES))
    assert seconds < MOST_SECONDS
