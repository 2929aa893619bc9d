"""The RoI max pool on the GPU: loaded through the driver, launched on the caller's stream."""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deepir.errors import EngineError, MissingDependency
from deepir.runtime.roi_cubin import KERNEL_NAME, compile_cubin

DRIVER = "libcuda.so.1"
"""The driver itself: where a GPU can be used it is there, with cuda-python, with pycuda, and without either."""

_THREADS = 256
_SECTOR_BYTES = 32
_MOST = 2**31 - 1

_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCall:
    """What one launch computes: a map of this shape, at these strides, over so many windows.

    Attributes:
        shape: N, C, H, W of the map.
        strides: Cells from one image, channel, row and column to the next.
        regions: R, rows of the windows int32 (R, 4): y0, x0, y1, x1 in cells, ends exclusive.
        half: Whether map and result hold 16-bit floats; else 32-bit.
    """

    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    regions: int
    half: bool

    @classmethod
    def packed(cls, shape: Sequence[int], regions: int, *, half: bool) -> "PoolCall":
        """A map that lies in memory as N, C, H, W without gaps."""
        batch, channels, height, width = shape
        strides = (channels * height * width, height * width, width, 1)
        return cls(shape=(batch, channels, height, width), strides=strides, regions=regions, half=half)

    @property
    def lanes(self) -> int:
        """Threads that share one window: one where channels lie side by side, else as many cells as a sector holds."""
        channel_stride, column_stride = self.strides[1], self.strides[3]
        return 1 if channel_stride <= column_stride else _SECTOR_BYTES // (2 if self.half else 4)

    @property
    def outputs(self) -> int:
        """Values of the result: N * R * C."""
        return self.shape[0] * self.shape[1] * self.regions

    def numbers(self) -> tuple[int, ...]:
        """The kernel's integers, in its order."""
        return (*self.shape, self.regions, *self.strides, int(self.half), self.lanes)


class RoiKernel:
    """The kernel in the driver's memory; it serves every context and every thread of the process."""

    def __init__(self, cubin: bytes) -> None:
        """Load machine code for this machine's GPU.

        Raises:
            MissingDependency: There is no driver.
            EngineError: The driver refuses the code, which then belongs to another GPU.
        """
        self._driver = open_driver()
        library, kernel = ctypes.c_void_p(), ctypes.c_void_p()
        no_options = (None, None, 0, None, None, 0)
        _call(self._driver, "cuLibraryLoadData", ctypes.byref(library), cubin, *no_options)
        _call(self._driver, "cuLibraryGetKernel", ctypes.byref(kernel), library, KERNEL_NAME.encode())
        self._kernel = kernel

    def prepare(self) -> None:
        """Bring the code into the current context, which a launch that a CUDA graph captures may not do.

        Raises:
            EngineError: No context is current, or no memory is left.
        """
        function = ctypes.c_void_p()
        _call(self._driver, "cuKernelGetFunction", ctypes.byref(function), self._kernel)

    def launch(self, call: PoolCall, pointers: tuple[int, int, int], stream: int) -> None:
        """Start the computation and return; nothing is allocated and nothing is waited for.

        Args:
            call: Shapes, strides and type.
            pointers: Device addresses of the map, the windows and the result (N, R, C).
            stream: The CUDA stream's handle.

        Raises:
            EngineError: The launch is refused, or sizes do not fit 32 bits.
        """
        threads = call.outputs * call.lanes
        if max(threads, *call.numbers()) > _MOST:
            message = f"{call.regions} windows of a map {call.shape} are too many for one launch: use a smaller batch"
            raise EngineError(message)
        if threads == 0:
            return
        x, rois, y = (ctypes.c_void_p(pointer) for pointer in pointers)
        arguments = [x, rois, *map(ctypes.c_int, call.numbers()), y]
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        blocks = (-(-threads // _THREADS), 1, 1)
        where = (0, ctypes.c_void_p(stream))
        _call(self._driver, "cuLaunchKernel", self._kernel, *blocks, _THREADS, 1, 1, *where, addresses, None)


def kernel_of_current_gpu() -> RoiKernel:
    """The kernel for the GPU of the calling thread's CUDA context, compiled and loaded once for each kind of GPU.

    Raises:
        MissingDependency: No driver, or nothing that compiles (see `compile_cubin`).
        EngineError: No context is current, or the GPU is unknown to the compiler.
    """
    return _kernel_for(current_capability())


def current_capability() -> int:
    """The compute capability of the current context's GPU without its dot: 87 for Orin.

    Raises:
        MissingDependency: There is no driver.
        EngineError: No context is current.
    """
    driver = open_driver()
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuCtxGetDevice", ctypes.byref(device))
    for number, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
    return major.value * 10 + minor.value


@functools.cache
def open_driver() -> ctypes.CDLL:
    """The CUDA driver of this machine, initialised.

    Raises:
        MissingDependency: There is none.
        EngineError: It does not start.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        message = f"no NVIDIA driver on this machine ({error}): run the .onnx file on the CPU instead"
        raise MissingDependency(message) from error
    _call(driver, "cuInit", 0)
    return driver


@functools.cache
def _kernel_for(sm: int) -> RoiKernel:
    return RoiKernel(compile_cubin(sm))


def _call(driver: ctypes.CDLL, name: str, *arguments: Any) -> None:
    try:
        function = getattr(driver, name)
    except AttributeError as error:
        message = f"the NVIDIA driver is older than CUDA 12 (it lacks {name}): update it, or use --pool native"
        raise EngineError(message) from error
    status = function(*arguments)
    if status != 0:
        said = ctypes.c_char_p()
        driver.cuGetErrorName(status, ctypes.byref(said))
        reason = said.value.decode(errors="replace") if said.value else f"error {status}"
        message = f"the pooling kernel cannot run: {name} fails with {reason}; use --pool native"
        raise EngineError(message)
