"""CUDA through cuda-python (cuda.bindings 12.6 and newer), NVIDIA's own package."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import MissingDependency
from deepir.optional import need
from deepir.runtime.cuda import MIB, PinnedBytes, cuda_error

_FIRST_DEVICE = 0
_NAME_LENGTH = 256


class CudaPython:
    """See `deepir.runtime.cuda.Cuda`."""

    name = "cuda-python"

    def __init__(self) -> None:
        try:
            self._driver: Any = need("cuda.bindings.driver")
        except MissingDependency as error:
            message = f"cuda-python cannot be imported: {error.__cause__}"
            raise MissingDependency(message) from error
        try:
            status = self._driver.cuInit(0)[0]
        except RuntimeError as error:  # what cuda.bindings raises when it finds no libcuda
            message = "cuda-python finds no NVIDIA driver"
            raise MissingDependency(message) from error
        if status != self._driver.CUresult.CUDA_SUCCESS:
            message = f"cuda-python: the NVIDIA driver says {status.name}"
            raise MissingDependency(message)
        self._device: Any = self._call("cuDeviceGet", _FIRST_DEVICE)
        self._context: Any = None

    @contextmanager
    def current(self) -> Iterator[None]:
        # not before it is used: a device says its name without paying for a context
        if self._context is None:
            self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def device_name(self) -> str:
        name: bytes = self._call("cuDeviceGetName", _NAME_LENGTH, self._device)
        return name.partition(b"\0")[0].decode(errors="replace")

    def compute_capability(self) -> str:
        attributes = self._driver.CUdevice_attribute
        major = self._call(
            "cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self._device
        )
        minor = self._call(
            "cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self._device
        )
        return f"{major}.{minor}"

    def memory_mib(self) -> int:
        return int(self._call("cuDeviceTotalMem", self._device)) // MIB

    def free_mib(self) -> int:
        return int(self._call("cuMemGetInfo")) // MIB

    def version(self) -> str:
        number = int(self._call("cuDriverGetVersion"))
        return f"{number // 1000}.{number % 1000 // 10}"

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, pointer: int) -> None:
        self._call("cuMemFree", pointer)

    def pinned(self, size: int) -> PinnedBytes:
        address = int(self._call("cuMemHostAlloc", size, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, buffer: PinnedBytes) -> None:
        self._call("cuMemFreeHost", buffer.ctypes.data)

    def stream(self) -> int:
        return int(self._call("cuStreamCreate", int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def end_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def upload(self, pointer: int, host: NDArray[Any], stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", pointer, host.ctypes.data, host.nbytes, stream)

    def download(self, host: NDArray[Any], pointer: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", host.ctypes.data, pointer, host.nbytes, stream)

    def synchronise(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        # thread-local: what other threads do with the GPU must not break the capture
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        noted = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", noted, 0))
        finally:
            self._call("cuGraphDestroy", noted)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        # the context stays retained for the process, so there is nothing more to give back
        self._context = None

    def _call(self, function: str, *arguments: Any) -> Any:
        """What the driver's function gives, the first of several values; None where it gives nothing."""
        status, *values = getattr(self._driver, function)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise cuda_error(function, status.name)
        return values[0] if values else None
