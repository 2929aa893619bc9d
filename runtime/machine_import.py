"""One package imported in a process of its own, and what it says of itself.

The process is this module: python -m deepir.runtime.machine_import cv2
"""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from deepir.errors import DeepIRError
from deepir.optional import need
from deepir.runtime.child import ask_child, tell
from deepir.runtime.roi_kernel import DRIVER

_SECONDS = 120.0
_NO_DEVICE = 100
_CAPABILITY = (75, 76)
_NAME_BYTES = 128


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import.

    Attributes:
        version: None where it failed.
        error: Why; empty where it did not fail.
        missing: Whether the package is simply not there, rather than broken.
        details: What the package says of itself.
    """

    version: str | None
    error: str = ""
    missing: bool = False
    details: dict[str, Any] = field(default_factory=dict)


def import_in_child(name: str) -> Imported:
    """Import `name`, one of PACKAGES, in a child; whatever happens to it is told, not raised."""
    try:
        return Imported(**ask_child(__name__, [name], _SECONDS))
    except DeepIRError as error:
        return Imported(None, str(error))


def import_here(name: str) -> Imported:
    """Import `name` in this process."""
    try:
        return PACKAGES[name]()
    except Exception as error:  # foreign packages raise anything when their libraries do not fit
        cause = error.__cause__ or error
        missing = isinstance(cause, ModuleNotFoundError) and cause.name == name
        return Imported(None, (str(cause).splitlines() or [type(cause).__name__])[0], missing)


def _cv2() -> Imported:
    cv2 = need("cv2")
    return Imported(cv2.__version__, details={"build": cv2.getBuildInformation()})


def _onnxruntime() -> Imported:
    runtime = need("onnxruntime")
    return Imported(runtime.__version__, details={"providers": runtime.get_available_providers()})


def _openvino() -> Imported:
    openvino = need("openvino")
    return Imported(openvino.__version__, details={"devices": list(openvino.Core().available_devices)})


def _tensorrt() -> Imported:
    return Imported(str(need("tensorrt").__version__))


def _tensorrt_rtx() -> Imported:
    return Imported(str(need("tensorrt_rtx_bindings").__version__))


def _usearch() -> Imported:
    usearch = need("usearch")
    need("usearch.index")
    return Imported(usearch.__version__)


def _cuda() -> Imported:
    """The NVIDIA driver and its first GPU; not a package, and broken in the same ways."""
    driver = ctypes.CDLL(DRIVER)
    status = driver.cuInit(0)
    if status:
        no_device = " (no GPU that it can use)" if status == _NO_DEVICE else ""
        return Imported(None, f"the driver does not start: cuInit gives error {status}{no_device}")
    version, device, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    numbers = (ctypes.c_int(), ctypes.c_int())
    for number, attribute in zip(numbers, _CAPABILITY, strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    details = {
        "gpu": name.value.decode(errors="replace"),
        "capability": f"{numbers[0].value}.{numbers[1].value}",
        "memory_mib": total.value >> 20,
    }
    return Imported(f"{version.value // 1000}.{version.value % 1000 // 10}", details=details)


PACKAGES: dict[str, Callable[[], Imported]] = {
    "cv2": _cv2,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt_rtx_bindings": _tensorrt_rtx,
    "usearch": _usearch,
    "cuda": _cuda,
}
"""What can be imported, by its name."""

if __name__ == "__main__":
    tell(lambda: asdict(import_here(sys.argv[1])))
