"""Why OpenVINO does not run a file: it cannot, or what it computes is not what ONNX Runtime computes."""

import re
from pathlib import Path

from deepir.card import GateVerdict
from deepir.errors import DeepIRError, EngineError, GateError
from deepir.spec import Numerics

NO_VNNI = "this processor has no VNNI, without which OpenVINO saturates INT8"

_VNNI = {"avx512_vnni", "avx_vnni"}


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
        f"other descriptors than in ONNX Runtime, cosine min {verdict.cosine_min:.4f} mean {verdict.cosine_mean:.4f}, "
        f"nearest neighbour the same for {verdict.agreement:.0%}{lacking}"
    )


def lacks_vnni(root: Path = Path("/")) -> bool:
    """Whether this is an x86 processor whose sums of INT8 products end at 16 bits; False where nobody says.

    Args:
        root: The folder that holds proc.
    """
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # other processors have no line "flags"
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and _VNNI.isdisjoint(flags[1].split())
