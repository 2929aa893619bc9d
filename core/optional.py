"""Heavy packages, asked for where they are used; a missing one names the command that installs it."""

import importlib
import os
from types import ModuleType

from deepir.errors import MissingDependency

_EXTRA_OF_MODULE = {
    "cv2": "cpu",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "tensorrt": "gpu",
    "cuda": "gpu",
    "pycuda": "gpu",
    "tensorrt_rtx_bindings": "rtx",
    "faiss": "faiss",
    "starlette": "page",
    "uvicorn": "page",
    "prometheus_client": "page",
    "paho": "mqtt",
}
_DEFAULT_EXTRA = "train"

_SILENT = {"onnxruntime": ("ORT_DISABLE_TELEMETRY", "1")}
"""Packages that tell their makers of the machine they run on, and the variable that forbids it when they are imported.
ONNX Runtime does since 1.32."""


def need(name: str) -> ModuleType:
    """Import a package that is not a hard dependency; it sends nothing home unless the environment says so.

    Raises:
        MissingDependency: It is not installed or its own libraries are not found; says what to install.
    """
    if name in _SILENT:
        os.environ.setdefault(*_SILENT[name])
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        extra = _EXTRA_OF_MODULE.get(package, _DEFAULT_EXTRA)
        message = f"this needs the package {package} ({error}): pip install 'deepir[{extra}]'"
        raise MissingDependency(message) from error
