"""CUDA through pycuda, where the user has it; its graphs through libcuda, for pycuda has none."""

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import MissingDependency
from deepir.optional import need
from deepir.runtime.cuda import MIB, PinnedBytes, cuda_error

_FIRST_DEVICE = 0
_NON_BLOCKING = 1
_THREAD_LOCAL = 1


class PyCuda:
    """See `deepir.runtime.cuda.Cuda`."""

    name = "pycuda"

    def __init__(self) -> None:
        try:
            self._driver: Any = need("pycuda.driver")
        except MissingDependency as error:
            message = f"pycuda cannot be imported: {error.__cause__}"
            raise MissingDependency(message) from error
        try:
            self._driver.init()
            self._device: Any = self._driver.Device(_FIRST_DEVICE)
        except self._driver.Error as error:
            message = f"pycuda: the NVIDIA driver says {error}"
            raise MissingDependency(message) from error
        # pycuda frees what its objects hold when they die, so they live here under the integers that we give out
        self._owned: dict[int, Any] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        context = self._call("retain the primary context", _primary_context, self._device)
        self._call("push", context.push)
        try:
            yield
        finally:
            self._call("pop", context.pop)

    def device_name(self) -> str:
        return str(self._device.name())

    def compute_capability(self) -> str:
        return "{}.{}".format(*self._device.compute_capability())

    def memory_mib(self) -> int:
        return int(self._device.total_memory()) // MIB

    def free_mib(self) -> int:
        return int(self._call("mem_get_info", self._driver.mem_get_info)[0]) // MIB

    def version(self) -> str:
        number = int(self._driver.get_driver_version())
        return f"{number // 1000}.{number % 1000 // 10}"

    def allocate(self, size: int) -> int:
        memory = self._call("mem_alloc", self._driver.mem_alloc, size)
        return self._keep(int(memory), memory)

    def free(self, pointer: int) -> None:
        self._call("free", self._owned.pop(pointer).free)

    def pinned(self, size: int) -> PinnedBytes:
        buffer: PinnedBytes = self._call("pagelocked_empty", self._driver.pagelocked_empty, size, np.uint8)
        self._keep(buffer.ctypes.data, buffer.base)
        return buffer

    def unpin(self, buffer: PinnedBytes) -> None:
        self._call("free", self._owned.pop(buffer.ctypes.data).free)

    def stream(self) -> int:
        stream = self._call("Stream", self._driver.Stream, _NON_BLOCKING)
        return self._keep(int(stream.handle), stream)

    def end_stream(self, stream: int) -> None:
        # the object destroys its stream when it goes
        del self._owned[stream]

    def upload(self, pointer: int, host: NDArray[Any], stream: int) -> None:
        self._call("memcpy_htod_async", self._driver.memcpy_htod_async, pointer, host, self._owned[stream])

    def download(self, host: NDArray[Any], pointer: int, stream: int) -> None:
        self._call("memcpy_dtoh_async", self._driver.memcpy_dtoh_async, host, pointer, self._owned[stream])

    def synchronise(self, stream: int) -> None:
        if stream in self._owned:
            self._call("synchronize", self._owned[stream].synchronize)
        else:  # of another library, which pycuda has no object for
            _libcuda("cuStreamSynchronize", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        # thread-local: what other threads do with the GPU must not break the capture
        _libcuda("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        noted, graph = ctypes.c_void_p(), ctypes.c_void_p()
        _libcuda("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(noted))
        try:
            _libcuda("cuGraphInstantiateWithFlags", ctypes.byref(graph), noted, ctypes.c_ulonglong(0))
        finally:
            _libcuda("cuGraphDestroy", noted)
        return graph.value or 0

    def launch(self, graph: int, stream: int) -> None:
        _libcuda("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def free_graph(self, graph: int) -> None:
        _libcuda("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def close(self) -> None:
        self._owned.clear()

    def _keep(self, key: int, owner: Any) -> int:
        self._owned[key] = owner
        return key

    def _call(self, what: str, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.MemoryError as error:
            raise cuda_error(what, "CUDA_ERROR_OUT_OF_MEMORY") from error
        except self._driver.Error as error:
            raise cuda_error(what, str(error)) from error


@functools.cache
def _primary_context(device: Any) -> Any:
    # one for the process: pycuda leaves a released context current in the thread that releases it
    return device.retain_primary_context()


def _libcuda(function: str, *arguments: Any) -> None:
    """Call the driver library itself, which pycuda has already loaded."""
    library = ctypes.CDLL("libcuda.so.1")
    status = getattr(library, function)(*arguments)
    if status:
        name = ctypes.c_char_p()
        library.cuGetErrorName(status, ctypes.byref(name))
        raise cuda_error(function, (name.value or b"error %d" % status).decode())
