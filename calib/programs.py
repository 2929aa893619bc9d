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
from deepir.gate import judge
from deepir.runtime.backend import AUTO_VARIABLE
from deepir.runtime.extractor import Extractor
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.openvino_hint import LIMITS
from deepir.runtime.openvino_model import PrecisionHint
from deepir.runtime.openvino_refusal import NotProvenError, OpenVinoRefusal, other_descriptors
from deepir.runtime.progress import Report

_PROVEN_ON = 8
_NAME = "model.onnx"


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
        NotRunError: OpenVINO cannot run the model.
        NotProvenError: With no hint: it gives other descriptors than ONNX Runtime.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _NAME
        write_onnx(proto, path)
        backend = OpenVinoBackend(path, hint=hint, cache=Path(folder))
        with Extractor(backend) as extractor:
            return backend.name, extractor.describe_files(paths)


class TrialDescriber:
    """Describes the same pictures with one INT8 model after another, so that the models can be compared.

    OpenVINO is several times as fast with INT8, and is believed where it agrees with ONNX Runtime on the first of the
    models: recipes that are compared with another arithmetic than that of their use are chosen by chance.
    """

    def __init__(self, paths: Sequence[Path], report: Report = lambda _: None) -> None:
        """Prepare to describe.

        Args:
            paths: Pictures on disk.
            report: Is told why OpenVINO is not believed.
        """
        self._paths = paths
        self._report = report
        self._in_openvino = openvino_runs()
        self._proven = False

    def __call__(self, proto: Any, card: ModelCard) -> Descriptors:
        """Descriptors (N, D) by a model in memory.

        Raises:
            InputError: A picture that cannot be read.
        """
        if self._in_openvino:
            try:
                found_nd = describe_in_openvino(proto, self._paths, "f32")[1]
                if not self._proven:
                    self._prove(proto, card, found_nd)
            except OpenVinoRefusal as refusal:
                self._in_openvino = False
                self._report(f"trials run in ONNX Runtime, not in OpenVINO: {refusal.reason}")
            else:
                return found_nd
        return describe(proto, card, self._paths)

    def _prove(self, proto: Any, card: ModelCard, found_nd: Descriptors) -> None:
        few = slice(0, len(self._paths), max(1, len(self._paths) // _PROVEN_ON))
        verdict = judge(describe(proto, card, self._paths[few]), found_nd[few], LIMITS)
        if not verdict.passed:
            raise NotProvenError(Path(_NAME), other_descriptors(verdict, card.numerics))
        self._proven = True
