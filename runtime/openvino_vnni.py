"""INT8 on x86 processors without VNNI: OpenVINO saturates it, and ONNX Runtime computes FP32 faster."""

import re
from pathlib import Path

NO_VNNI = "this CPU has no VNNI: OpenVINO saturates INT8"

_VNNI = {"avx512_vnni", "avx_vnni"}
_SUFFIX = ".int8.onnx"


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


def fp32_beside(path: Path) -> Path | None:
    """The FP32 form of an INT8 file, by name: student.onnx beside student.int8.onnx; None where there is none."""
    master = path.with_name(path.name.removesuffix(_SUFFIX) + ".onnx")
    return master if path.name.endswith(_SUFFIX) and master.is_file() else None
