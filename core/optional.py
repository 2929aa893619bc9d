"""Heavy packages, asked for where they are used; a missing one names the command that installs it."""

import importlib
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


def need(name: str) -> ModuleType:
    """Import a package that is not a hard dependency.

    Raises:
        MissingDependency: It is not installed or its own libraries are not found; says what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        extra = _EXTRA_OF_MODULE.get(package, _DEFAULT_EXTRA)
        message = f"this needs the package {package} ({error}): pip install 'deepir[{extra}]'"
        raise MissingDependency(message) from error
