"""One loaded engine on one stream: its execution contexts, and the CUDA graphs captured from them."""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import OUTPUT_NAME, ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import DeepIRError, EngineError, MemoryLimitError
from deepir.runtime.cuda import Cuda
from deepir.runtime.tensorrt_library import Log
from deepir.runtime.trt_buffers import Buffers
from deepir.runtime.trt_shapes import Profile, Shape, choose_profile, counts_pictures, read_profiles

_MOST_SHAPES = 8
"""Shapes that are remembered, with their graphs: a camera needs one or two, and each graph costs memory."""

_LAST_WORDS = 3

_logger = logging.getLogger(__name__)

_Key = tuple[int, tuple[Shape, ...]]
"""The number of a profile and the shape of each input."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A deserialised engine (ICudaEngine), with the TensorRT module, the log and the runtime that must outlive it."""

    trt: Any
    engine: Any
    card: ModelCard
    log: Log
    runtime: Any


@dataclass(frozen=True, slots=True)
class _Captured:
    """An execution context that is not touched any more, and the graph made with it."""

    context: Any
    graph: int


class EngineSession:
    """Runs an engine; the CUDA context must be current, and only one thread may be in here at a time.

    All memory is taken when it is made. The engine's working memory is shared by all execution contexts, since one
    runs at a time.

    Attributes:
        captures: Graphs made so far.
    """

    def __init__(self, loaded: Loaded, cuda: Cuda, *, graph: bool) -> None:
        self._loaded, self._cuda, self._graphs_wanted = loaded, cuda, graph
        self._profiles = read_profiles(loaded.engine, loaded.card)
        self._known: OrderedDict[_Key, _Captured | None] = OrderedDict()
        self.captures = 0
        with contextlib.ExitStack() as taken:
            self._stream = cuda.stream()
            taken.callback(cuda.end_stream, self._stream)
            self._buffers = Buffers(cuda, self._profiles, loaded.card)
            taken.callback(self._buffers.close)
            self._workspace_bytes = int(loaded.engine.device_memory_size_v2)
            self._workspace = cuda.allocate(max(1, self._workspace_bytes))
            taken.callback(cuda.free, self._workspace)
            self._roaming: Any = self._context()
            self._roaming_key: _Key | None = None
            taken.callback(self._drop_contexts)
            self._taken = taken.pop_all()

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> Descriptors:
        """Inputs by name, in the card's order, give (N, D); more pictures than the engine takes go in several runs.

        Raises:
            ShapeError: No profile takes the shapes.
            EngineError: TensorRT or CUDA refuses.
        """
        profile = choose_profile(self._profiles, {name: array.shape for name, array in arrays.items()})
        fewest, most = profile.batch
        count = len(next(iter(arrays.values())))
        descriptors_nd = np.empty((count, self._loaded.card.spec.dim), dtype=np.float32)
        for start in range(0, count, most):
            stop = min(start + most, count)
            part = {name: array[start:stop] if counts_pictures(name) else array for name, array in arrays.items()}
            self._buffers.fill(part, max(stop - start, fewest))
            self._compute(profile)
            descriptors_nd[start:stop] = self._buffers.descriptors_nd[: stop - start]
        return descriptors_nd

    def close(self) -> None:
        """Give everything back: graphs, contexts, the engine, memory, the stream."""
        self._taken.close()

    def _compute(self, profile: Profile) -> None:
        """Run what the buffers hold: ordinarily at first, as one graph when its shapes have come before.

        Changing a context spoils the graphs made with it, so a captured context keeps its shapes for good, and another
        one takes the shapes that follow.
        """
        key = (profile.number, tuple(self._buffers.shapes.values()))
        captured = self._known.get(key)
        if captured is not None:
            self._known.move_to_end(key)
            self._cuda.launch(captured.graph, self._stream)
            self._cuda.synchronise(self._stream)
            return
        self._run_ordinarily(key)
        if self._graphs_wanted:
            self._known[key] = self._capture() if key in self._known else None
            self._known.move_to_end(key)
            if len(self._known) > _MOST_SHAPES:
                self._forget(self._known.popitem(last=False)[1])

    def _run_ordinarily(self, key: _Key) -> None:
        if self._roaming is None:
            self._roaming, self._roaming_key = self._context(), None
        if self._roaming_key != key:
            self._roaming_key = None
            self._configure(self._roaming, key[0])
            self._roaming_key = key
        self._enqueue(self._roaming)
        self._cuda.synchronise(self._stream)

    def _context(self) -> Any:
        strategy = self._loaded.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._loaded.engine.create_execution_context(strategy)
        if context is None:
            message = f"TensorRT cannot start the engine ({self._said()}): end other programs that use the GPU"
            raise MemoryLimitError(message)
        if self._workspace_bytes:
            context.set_device_memory(self._workspace, self._workspace_bytes)
        for name, pointer in self._buffers.pointers().items():
            self._check(context.set_tensor_address(name, pointer), f"the address of {name}")
        return context

    def _configure(self, context: Any, profile: int) -> None:
        if context.active_optimization_profile != profile:
            switched = context.set_optimization_profile_async(profile, self._stream)
            self._check(switched, f"optimisation profile {profile}")
        for name, shape in self._buffers.shapes.items():
            self._check(context.set_input_shape(name, shape), f"{name} of shape {shape}")
        given, expected = tuple(context.get_tensor_shape(OUTPUT_NAME)), self._buffers.descriptors_nd.shape
        self._check(given == expected, f"these shapes: it would give {given} instead of {expected}")

    def _enqueue(self, context: Any) -> None:
        self._buffers.upload(self._stream)
        self._check(context.execute_async_v3(self._stream), "to run")
        self._buffers.download(self._stream)

    def _capture(self) -> _Captured | None:
        """The context that just ran, with a graph of its run; None where that cannot be, now or at all."""
        # TensorRT-RTX says whether it is still compiling kernels for these shapes
        ready = getattr(self._roaming, "is_stream_capturable", None)
        if ready is not None and not ready(self._stream):
            return None
        context, self._roaming = self._roaming, None
        try:
            graph = self._graph_of(context)
        except DeepIRError as error:
            _logger.warning("running without CUDA graphs, which this engine does not take here: %s", error)
            self._graphs_wanted = False
            return None
        self.captures += 1
        return _Captured(context, graph)

    def _graph_of(self, context: Any) -> int:
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue(context)
        except DeepIRError:
            # the stream notes instead of computing until the capture ends, and ending it may fail as well
            with contextlib.suppress(DeepIRError):
                self._cuda.free_graph(self._cuda.end_capture(self._stream))
            raise
        return self._cuda.end_capture(self._stream)

    def _forget(self, captured: _Captured | None) -> None:
        if captured is not None:
            self._cuda.free_graph(captured.graph)

    def _drop_contexts(self) -> None:
        while self._known:
            self._forget(self._known.popitem()[1])
        self._roaming = None
        self._loaded = None  # type: ignore[assignment]

    def _check(self, done: bool, what: str) -> None:
        if not done:
            message = f"TensorRT refuses {what} ({self._said()}): build the engine again with deepir-export"
            raise EngineError(message)

    def _said(self) -> str:
        return last_words(self._loaded.log)


def last_words(log: Log) -> str:
    """The last things that TensorRT complained of, in one line."""
    lines = log.errors() or [message for _, message in log.lines]
    return "; ".join(" ".join(line.split()) for line in lines[-_LAST_WORDS:]) or "it does not say why"
