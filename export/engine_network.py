"""An ONNX file to a TensorRT plan, through names that TensorRT 10.3, 11.4 and TensorRT-RTX share."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from deepir.errors import EngineError, MemoryLimitError
from deepir.export.engine_config import int8_capabilities
from deepir.export.engine_head import head_layers
from deepir.export.engine_monitor import Step, make_monitor
from deepir.export.engine_precision import count_in_layers, count_in_log, dropped, worst
from deepir.export.engine_request import BuildRequest
from deepir.runtime.roi_plugin import register_plugin
from deepir.runtime.sidecar import PrecisionCount
from deepir.runtime.tensorrt_library import Log, tensorrt_version
from deepir.runtime.trt_provenance import library_name

_MIB = 1 << 20
_WEAK_FLAGS = ("INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS")
_WEAK_LAYER = ("precision", "set_output_type")
"""TensorRT 10 has these two, 11 and TensorRT-RTX have neither and are always strongly typed."""

_SEVERAL_GPUS = ("num_compute_capabilities", "set_compute_capability")
"""Of TensorRT-RTX alone, with the enumeration ComputeCapability."""

_LAST_LINES = 3
_NO_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|cudaErrorMemoryAllocation|bad_alloc", re.IGNORECASE)


class PlanBuilder:
    """TensorRT's builder with the parsed network of a request; what it holds is freed with it.

    Args:
        trt: TensorRT's module.
        log: Its logger; verbose for TensorRT-RTX, whose kernel list comes that way.
        request: What to build.

    Raises:
        EngineError: TensorRT cannot start here, or does not take the file; with its own words.
        MemoryLimitError: It ran out of memory.
    """

    def __init__(self, trt: ModuleType, log: Log, request: BuildRequest) -> None:
        self._trt: Any = trt
        self._log = log
        self._request = request
        self.notes: list[str] = []
        self._weak = request.int8 and is_weak(trt)
        try:
            self._builder = self._trt.Builder(log)
        except TypeError:  # what pybind11 makes of a factory that returns nothing
            self._refuse("cannot start")
        if request.plugin:
            register_plugin(trt)
        strong = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(0 if self._weak else strong)
        self._parse()
        if self._weak:
            self._pin_head()
        self._config = self._configure()

    def build(self, step: Step) -> Any:
        """The plan, as a buffer of bytes.

        Raises:
            EngineError: TensorRT builds none; with its own words.
            MemoryLimitError: It ran out of memory.
        """
        # the configuration keeps only a bare pointer to it
        self._monitor = make_monitor(self._trt, step)
        self._config.progress_monitor = self._monitor
        plan = self._builder.build_serialized_network(self._network, self._config)
        if plan is None:
            self._refuse("cannot build this engine")
        return plan

    def precisions(self) -> tuple[PrecisionCount, list[str]]:
        """TensorRT-RTX's convolutions by precision, the worst of all compute capabilities, and those it dropped.

        Its kernel list tells of the lowest capability of a build, so each other one is built for alone.
        """
        request = self._request
        first, missing = self._count(), dropped(self._log.lines, request.convolutions)
        lowest = request.compute_capabilities[0]
        asked = int8_capabilities(request.compute_capabilities) if request.int8 else []
        counts = [first if one == lowest else self._count_alone(one) for one in asked or [lowest]]
        return worst(counts), missing

    def timing(self) -> bytes:
        """What TensorRT measured, to give it to the next build."""
        cache = self._config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())

    def _count_alone(self, capability: str) -> PrecisionCount:
        self._target([capability])
        self.build(lambda _share: None)
        return self._count()

    def _count(self) -> PrecisionCount:
        return count_in_log(self._log.lines, self._request.convolutions)

    def _parse(self) -> None:
        # the parser must live as long as the network: it owns the weights
        self._parser = self._trt.OnnxParser(self._network, self._log)
        if not self._parser.parse(Path(self._request.onnx).read_bytes()):
            problem = self._parser.get_error(0) if self._parser.num_errors else None
            at = f"node {problem.node_name()} ({problem.node_operator()}): {problem.desc()}" if problem else ""
            self._refuse("does not take this file", at)

    def _pin_head(self) -> None:
        """Weak typing may give any layer FP16; squares of region values add up beyond what that holds."""
        head = head_layers(self._network, self._request.head)
        if not head:
            message = "the head of the model is not found in TensorRT's network: export the model again, or use --fp16"
            raise EngineError(message)
        for layer in head:
            floats = [number for number in range(layer.num_outputs) if self._is_float(layer.get_output(number))]
            if floats:
                layer.precision = self._trt.float32
            for number in floats:
                layer.set_output_type(number, self._trt.float32)

    def _is_float(self, tensor: Any) -> bool:
        return bool(tensor.dtype == self._trt.float32)

    def _configure(self) -> Any:
        config, request = self._builder.create_builder_config(), self._request
        for name in _WEAK_FLAGS if self._weak else ():
            config.set_flag(getattr(self._trt.BuilderFlag, name))
        config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, request.workspace_mib * _MIB)
        config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED
        self._make_portable(config)
        if request.timing_out:
            self._use_timing(config)
        for shapes in request.profiles:
            profile = self._builder.create_optimization_profile()
            for name, (smallest, usual, largest) in shapes.items():
                profile.set_shape(name, smallest, usual, largest)
            if config.add_optimization_profile(profile) < 0:
                self._refuse(f"does not take the shapes {shapes}")
        self._config = config
        if request.compute_capabilities:
            self._target(request.compute_capabilities)
        return config

    def _target(self, capabilities: list[str]) -> None:
        names = getattr(self._trt, "ComputeCapability", None)
        if names is None or not all(hasattr(self._config, name) for name in _SEVERAL_GPUS):
            message = f"TensorRT {tensorrt_version(self._trt)} builds for the GPU of this machine only"
            raise EngineError(message)
        self._config.num_compute_capabilities = len(capabilities)
        for number, capability in enumerate(capabilities):
            wanted = getattr(names, f"SM{capability.replace('.', '')}", None)
            if wanted is None:
                known = ", ".join(sorted(name for name in dir(names) if name.startswith("SM")))
                message = f"TensorRT-RTX {tensorrt_version(self._trt)} builds for {known}, not for {capability}"
                raise EngineError(message)
            self._config.set_compute_capability(wanted, number)

    def _make_portable(self, config: Any) -> None:
        trt, portable = self._trt, self._request.portable
        if portable in ("version", "both"):
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        if portable in ("arch", "both"):
            same = getattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY", None)
            level = trt.HardwareCompatibilityLevel.AMPERE_PLUS if self._request.ampere else same
            if level is None:
                message = (
                    f"TensorRT {tensorrt_version(trt)} makes engines for other GPUs from compute capability 8.0 on: "
                    "leave --portable out"
                )
                raise EngineError(message)
            config.hardware_compatibility_level = level

    def _use_timing(self, config: Any) -> None:
        known = Path(self._request.timing_in).read_bytes() if self._request.timing_in else b""
        cache = config.create_timing_cache(known)
        if cache is None and known:
            self.notes.append("TensorRT does not take the timing cache: it is made again")
            cache = config.create_timing_cache(b"")
        if cache is not None and not config.set_timing_cache(cache, False):
            self.notes.append("the timing cache is of another TensorRT or device: it is made again")
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _refuse(self, what: str, words: str = "") -> NoReturn:
        """Raise with these words, or with the last that TensorRT said."""
        words = words or last_errors(self._log)
        if _NO_MEMORY.search(words):
            raise MemoryLimitError(words)
        message = f"{library_name(self._request.flavour)} {tensorrt_version(self._trt)} {what}: {words}"
        raise EngineError(message)


def is_weak(trt: ModuleType) -> bool:
    """Whether this TensorRT takes INT8 weakly typed: 10.x does, and wants it so (tensorrt.md 6)."""
    flags, layer = getattr(trt, "BuilderFlag", None), getattr(trt, "ILayer", None)
    return all(hasattr(flags, name) for name in _WEAK_FLAGS) and all(hasattr(layer, name) for name in _WEAK_LAYER)


def last_errors(log: Log) -> str:
    """TensorRT's last words of error, in one line."""
    return " ".join(" | ".join(log.errors()[-_LAST_LINES:]).split()) or "it gives no reason"


def read_precision(trt: ModuleType, log: Log, plan: Any) -> PrecisionCount:
    """The convolutions of a TensorRT plan by precision; zeros where TensorRT does not tell.

    Raises:
        EngineError: The plan that was just built cannot be loaded.
    """
    library: Any = trt
    runtime = library.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        message = f"TensorRT {tensorrt_version(trt)} cannot load the plan that it just built: {last_errors(log)}"
        raise EngineError(message)
    inspector = engine.create_engine_inspector()
    return count_in_layers(inspector.get_engine_information(library.LayerInformationFormat.JSON))
