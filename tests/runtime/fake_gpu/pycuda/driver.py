"""FakePycuda: the names of pycuda.driver that deepir uses, over FakeLibcuda; as in pycuda, things end with objects."""

import ctypes

import numpy as np

_cuda = ctypes.CDLL("libcuda.so.1")


class Error(Exception):
    """Base of pycuda's errors."""


class MemoryError(Error):  # noqa: A001 pycuda calls it so
    """Out of memory."""


class LogicError(Error):
    """Everything else."""


def _call(name: str, *arguments: object) -> None:
    status = getattr(_cuda, name)(*arguments)
    if status == 2:
        message = f"{name} failed: out of memory"
        raise MemoryError(message)
    if status:
        message = f"{name} failed: error {status}"
        raise LogicError(message)


def init() -> None:
    _call("cuInit", 0)


def get_driver_version() -> int:
    return 12060


def mem_get_info() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class _Context:
    def __init__(self, handle: ctypes.c_void_p) -> None:
        self._handle = handle

    def push(self) -> None:
        _call("cuCtxPushCurrent_v2", self._handle)

    @staticmethod
    def pop() -> None:
        _call("cuCtxPopCurrent_v2", None)


class Device:
    def __init__(self, number: int) -> None:
        self._number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other._number == self._number

    def __hash__(self) -> int:
        return self._number

    def name(self) -> str:
        return "FakeGPU"

    def compute_capability(self) -> tuple[int, int]:
        return 8, 7

    def total_memory(self) -> int:
        return 7620 << 20

    def retain_primary_context(self) -> _Context:
        handle = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), self._number)
        return _Context(handle)


class _Allocation:
    def __init__(self, take: str, give: str, size: int) -> None:
        self._handle = ctypes.c_void_p()
        self._give = give
        _call(take, ctypes.byref(self._handle), ctypes.c_size_t(size), *([0] if take == "cuMemHostAlloc" else []))

    def __int__(self) -> int:
        return self._handle.value or 0

    def free(self) -> None:
        _call(self._give, self._handle)


def mem_alloc(size: int) -> _Allocation:
    return _Allocation("cuMemAlloc_v2", "cuMemFree_v2", size)


class _Locked(_Allocation):
    @property
    def __array_interface__(self) -> dict[str, object]:
        return {"shape": (self.size,), "typestr": "|u1", "data": (int(self), False), "version": 3}


def pagelocked_empty(shape: int, dtype: type) -> np.ndarray:
    assert dtype is np.uint8
    locked = _Locked("cuMemHostAlloc", "cuMemFreeHost", shape)
    locked.size = shape
    return np.asarray(locked)


class Stream:
    def __init__(self, flags: int = 0) -> None:
        handle = ctypes.c_void_p()
        _call("cuStreamCreate", ctypes.byref(handle), flags)
        self.handle = handle.value

    def __del__(self) -> None:
        _call("cuStreamDestroy_v2", ctypes.c_void_p(self.handle))

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", ctypes.c_void_p(self.handle))


def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
    _copy("cuMemcpyHtoDAsync_v2", dest, src.ctypes.data, src.nbytes, stream)


def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
    _copy("cuMemcpyDtoHAsync_v2", dest.ctypes.data, src, dest.nbytes, stream)


def _copy(name: str, to: int, start: int, size: int, stream: Stream) -> None:
    handles = (ctypes.c_void_p(to), ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_void_p(stream.handle))
    _call(name, *handles)
