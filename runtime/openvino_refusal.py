"""Why OpenVINO does not run a file: it cannot, or what it computes is not what ONNX Runtime computes."""

from pathlib import Path

from deepir.card import GateVerdict
from deepir.errors import DeepIRError, EngineError, GateError
from deepir.runtime.openvino_vnni import NO_VNNI, lacks_vnni
from deepir.spec import Numerics


class OpenVinoRefusal(DeepIRError):  # noqa: N818 the two below say what kind of error it is
    """OpenVINO does not run a file.

    Attributes:
        reason: Without the name of the file and without a cure, for those who run it in another program by themselves.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"OpenVINO does not run {path}: {reason}; take ONNX Runtime for it")
        self.reason = reason


class NotRunError(OpenVinoRefusal, EngineError):
    """It cannot compile or run it."""


class NotProvenError(OpenVinoRefusal, GateError):
    """It gives other descriptors than ONNX Runtime."""


def other_descriptors(verdict: GateVerdict, numerics: Numerics) -> str:
    """The reason that a failed comparison with ONNX Runtime gives, with what the processor lacks for it.

    Args:
        verdict: Of the comparison.
        numerics: Of the file.
    """
    lacking = f" ({NO_VNNI})" if numerics is Numerics.INT8 and lacks_vnni() else ""
    return (
        f"its descriptors differ from ONNX Runtime's, cosine min {verdict.cosine_min:.4f} "
        f"mean {verdict.cosine_mean:.4f}, same neighbour {verdict.agreement:.0%}{lacking}"
    )
