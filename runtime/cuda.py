"""Memory, streams and graphs of the GPU: one protocol, and the choice between pycuda and cuda-python."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepir.errors import DeepIRError, EngineError, MemoryLimitError, MissingDependency

PinnedBytes = NDArray[np.uint8]
"""Page-locked host memory (size,): the GPU copies from and to it while the processor does something else."""

MIB = 1 << 20

_NO_MEMORY = "OUT_OF_MEMORY"


class Cuda(Protocol):
    """The first visible GPU (CUDA_VISIBLE_DEVICES chooses) and its primary context, which torch and others share.

    The context is retained when it is first used and stays until the process ends: TensorRT's own runtime and loaded
    kernels hold on to it.

    Pointers, streams and graphs are plain integers. What touches memory or streams needs the context in the calling
    thread: `with cuda.current():`. A failing call raises EngineError with CUDA's name for the error, and
    MemoryLimitError where the GPU's memory ran out.

    Attributes:
        name: The package behind it, "pycuda" or "cuda-python".
    """

    name: str

    def current(self) -> AbstractContextManager[None]:
        """Makes the context current in the calling thread, and the one before it afterwards."""

    def device_name(self) -> str:
        """Such as "Orin"."""

    def compute_capability(self) -> str:
        """Such as "8.7"."""

    def memory_mib(self) -> int:
        """All memory of the GPU, in MiB (2**20 bytes)."""

    def free_mib(self) -> int:
        """Memory that is free now, in MiB (2**20 bytes); needs the context."""

    def version(self) -> str:
        """The newest CUDA that the driver runs, such as "12.6"."""

    def allocate(self, size: int) -> int:
        """Memory of the GPU, `size` bytes, aligned to 256."""

    def free(self, pointer: int) -> None:
        """Give back what `allocate` gave."""

    def pinned(self, size: int) -> PinnedBytes:
        """Page-locked memory of the host; no view of it may be used after `unpin`."""

    def unpin(self, buffer: PinnedBytes) -> None:
        """Give back what `pinned` gave."""

    def stream(self) -> int:
        """A stream that does not wait for the default one."""

    def end_stream(self, stream: int) -> None:
        """Give back what `stream` gave."""

    def upload(self, pointer: int, host: NDArray[Any], stream: int) -> None:
        """Start to copy a contiguous array to the GPU."""

    def download(self, host: NDArray[Any], pointer: int, stream: int) -> None:
        """Start to copy from the GPU into a contiguous array."""

    def synchronise(self, stream: int) -> None:
        """Wait until the stream has done everything; it may be another library's, or 1, CUDA's default stream."""

    def begin_capture(self, stream: int) -> None:
        """From now on the stream notes what it is given instead of doing it."""

    def end_capture(self, stream: int) -> int:
        """A graph of what the stream noted; the stream does things again, also where this raises."""

    def launch(self, graph: int, stream: int) -> None:
        """Start to do what a graph holds."""

    def free_graph(self, graph: int) -> None:
        """Give back what `end_capture` gave."""

    def close(self) -> None:
        """The last call; everything taken must have been given back before."""


def open_cuda() -> Cuda:
    """CUDA through pycuda where the user has it, else through cuda-python; no context is made yet.

    Raises:
        MissingDependency: Neither package is there, or there is no driver or no GPU.
    """
    from deepir.runtime.cuda_pycuda import PyCuda
    from deepir.runtime.cuda_python import CudaPython

    reasons = []
    for package in (PyCuda, CudaPython):
        try:
            return package()
        except MissingDependency as error:
            reasons.append(str(error))
    message = (
        f"a TensorRT engine needs an NVIDIA GPU with its driver, and pycuda or cuda-python ({'; '.join(reasons)}): "
        "pip install cuda-python, or run the .onnx file instead"
    )
    raise MissingDependency(message)


def cuda_error(call: str, name: str) -> DeepIRError:
    """The error for a CUDA call that failed; `name` is CUDA's own, such as CUDA_ERROR_OUT_OF_MEMORY."""
    if _NO_MEMORY in name:
        return MemoryLimitError(
            f"the GPU has no memory left ({call}: {name}): end other programs or use smaller batches"
        )
    return EngineError(f"the GPU refused {call} with {name}: run again, and look into dmesg when it stays so")
