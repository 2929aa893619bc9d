"""The programs that describe pictures with a model in memory: ONNX Runtime always, OpenVINO where it will run files."""

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepir.calib.onnx_file import describe, write_onnx
from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import EngineError
from deepir.runtime.backend import AUTO_VARIABLE
from deepir.runtime.extractor import Extractor
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.openvino_model import PrecisionHint


def openvino_runs() -> bool:
    """Whether OpenVINO is installed, and the variable DEEPIR_BACKEND names no other program."""
    return os.environ.get(AUTO_VARIABLE, "auto") in ("auto", "openvino") and (
        importlib.util.find_spec("openvino") is not None
    )


def describe_in_openvino(
    proto: Any, paths: Sequence[Path], hint: PrecisionHint | None = None
) -> tuple[str, Descriptors]:
    """The name of the program with its precision, and the descriptors (N, D) of pictures by a model with its card.

    Args:
        proto: An onnx.ModelProto.
        paths: Pictures on disk.
        hint: None takes the precision that OpenVINO will run the file in, found by trial.

    Raises:
        InputError: A picture that cannot be read.
        EngineError: OpenVINO cannot run the model.
        GateError: With no hint: it gives other descriptors than ONNX Runtime.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(proto, path)
        backend = OpenVinoBackend(path, hint=hint, cache=Path(folder))
        with Extractor(backend) as extractor:
            return backend.name, extractor.describe_files(paths)


def describe_fast(proto: Any, card: ModelCard, paths: Sequence[Path]) -> Descriptors:
    """Descriptors (N, D) for comparisons among models: in OpenVINO, several times as fast with INT8, where it can.

    Raises:
        InputError: A picture that cannot be read.
    """
    if openvino_runs():
        try:
            return describe_in_openvino(proto, paths, "f32")[1]
        except EngineError:
            pass
    return describe(proto, card, paths)
