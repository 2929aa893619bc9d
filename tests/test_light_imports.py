"""What a robot imports stays light: no heavy package, and little time beyond numpy, usearch and click."""

import json
import statistics
import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "cv2", "onnxruntime", "openvino", "rich", "tensorrt", "tensorrt_rtx", "pycuda", "starlette"}
MOST_TIMES = 2.0
"""Of what numpy, usearch and click cost themselves in the same process."""

PROCESSES = 5

LOADED = "import json, sys, deepir.runtime; sys.stdout.write(json.dumps(sorted(sys.modules)))"
LOADED_BY_ALL_MODULES = """
import importlib, json, pkgutil, sys
import deepir.runtime
for module in pkgutil.walk_packages(deepir.runtime.__path__, "deepir.runtime."):
    importlib.import_module(module.name)
sys.stdout.write(json.dumps(sorted(sys.modules)))
"""
# processor time, compared within one process: neither what else the machine does nor how fast it is counts
COST = """
import sys, time
began = time.process_time()
import click, numpy, usearch.index
before = time.process_time()
import deepir.runtime
sys.stdout.write(str((time.process_time() - before) / (before - began)))
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
    assert statistics.median(float(output_of(COST)) for _ in range(PROCESSES)) < MOST_TIMES
