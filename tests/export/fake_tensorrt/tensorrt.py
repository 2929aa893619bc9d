"""FakeTensorRT: stands in for NVIDIA's module where there is no GPU, in its 10.3, 10.16 and 11.4 forms.

It reads the ONNX file, writes down what it is told as a trace, and gives a plan that is no plan. The names that a form
has are those of the real module of that version; a test compares them with the real wheels.

Environment: FAKE_TENSORRT_VERSION, FAKE_TENSORRT_DOES (what building does), FAKE_TENSORRT_TRACE (a JSON file to write),
FAKE_TENSORRT_FIFO (a pipe that is opened and told the process id when building hangs).
"""

import json
import os
import signal
import threading
from enum import Enum, IntEnum
from pathlib import Path

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0")
DOES = os.environ.get("FAKE_TENSORRT_DOES", "build")
TRACE = os.environ.get("FAKE_TENSORRT_TRACE")
RELEASE = tuple(int(part) for part in __version__.split(".")[:2])
WEAK = RELEASE < (11, 0)
CACHE_HEADER = b"fake timing cache of " + __version__.encode()

trace = {"flags": [], "pinned": {}, "profiles": [], "timing": []}

Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)
ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"], start=0)
MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"], start=0)
LayerInformationFormat = IntEnum("LayerInformationFormat", ["ONELINE", "JSON"], start=0)
DataType = Enum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "INT64"])
NetworkDefinitionCreationFlag = IntEnum(
    "NetworkDefinitionCreationFlag", {**({"EXPLICIT_BATCH": 0} if WEAK else {}), "STRONGLY_TYPED": 1}
)
BuilderFlag = IntEnum(
    "BuilderFlag",
    [
        *(["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"] if WEAK else []),
        *("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "TF32"),
    ],
    start=0,
)
HardwareCompatibilityLevel = IntEnum(
    "HardwareCompatibilityLevel",
    ["NONE", "AMPERE_PLUS", *(["SAME_COMPUTE_CAPABILITY"] if RELEASE >= (10, 13) else [])],
    start=0,
)
float32 = DataType.FLOAT


class ILogger:
    """Told by everything here through `log`."""

    Severity = Severity


class IProgressMonitor:
    """Told how far building is."""


class IPluginV3:
    """What our plugin is made of."""


class IPluginV3OneCore:
    """As above."""


class IPluginV3OneBuild:
    """As above."""


class IPluginV3OneRuntime:
    """As above."""


class IPluginCreatorV3One:
    """What our creator is made of."""


class PluginFieldCollection(list):
    """Our plugin has no fields."""


class ITensor:
    """A named value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = DataType.FLOAT


class ILayer:
    """A node of the ONNX file."""

    def __init__(self, name: str, inputs: list[str], outputs: list[str]) -> None:
        self.name = name
        self._inputs = [ITensor(one) for one in inputs]
        self._outputs = [ITensor(one) for one in outputs]
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, number: int) -> ITensor:
        return self._inputs[number]

    def get_output(self, number: int) -> ITensor:
        return self._outputs[number]

    if WEAK:

        @property
        def precision(self) -> DataType:
            return DataType.FLOAT

        @precision.setter
        def precision(self, kind: DataType) -> None:
            trace["pinned"][self.name] = [kind.name]

        def set_output_type(self, number: int, kind: DataType) -> None:
            trace["pinned"][self.name].append(f"{number}: {kind.name}")


class INetworkDefinition:
    """The layers, in order."""

    def __init__(self) -> None:
        self.layers: list[ILayer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, number: int) -> ILayer:
        return self.layers[number]

    def add_plugin_v3(self) -> None:
        """There for plugin_problem, which asks for it."""


class OnnxParser:
    """Reads with the onnx package; refuses a custom operator, as the real one without its plugin."""

    def __init__(self, network: INetworkDefinition, log: ILogger) -> None:
        self._network, self._log = network, log

    def parse(self, content: bytes) -> bool:
        import onnx

        proto = onnx.load_from_string(content)
        trace["operators"] = sorted({node.op_type for node in proto.graph.node})
        trace["functions"] = len(proto.functions)
        for node in proto.graph.node:
            if node.domain and not _registry.creators:
                self._log.log(Severity.ERROR, f"Plugin not found: {node.op_type}")
                return False
            self._network.layers.append(ILayer(node.name, list(node.input), list(node.output)))
        return True


class ITimingCache:
    """Bytes with a header."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content or CACHE_HEADER


class IOptimizationProfile:
    """Shapes of inputs."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, smallest: list[int], usual: list[int], largest: list[int]) -> None:
        self._shapes[name] = [smallest, usual, largest]


class IBuilderConfig:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor = None
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        trace["flags"].append(flag.name)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        trace[pool.name] = size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        trace["profiles"].append(profile._shapes)
        return len(trace["profiles"]) - 1

    def create_timing_cache(self, content: bytes) -> ITimingCache | None:
        trace["timing"].append(len(content))
        return None if content and not content.startswith(b"fake timing cache") else ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and cache.serialize() != CACHE_HEADER:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class IHostMemory(bytes):
    """A plan."""


class Builder:
    """Builds, or dies as it was told."""

    def __init__(self, log: ILogger) -> None:
        if DOES == "no gpu":
            log.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            message = "pybind11::init(): factory function returned nullptr"
            raise TypeError(message)
        self._log = log

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        trace["network"] = flags
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        trace["verbosity"] = config.profiling_verbosity.name
        trace["compatibility"] = config.hardware_compatibility_level.name
        if TRACE:
            Path(TRACE).write_text(json.dumps(trace))
        self._log.log(Severity.INFO, "timing kernels")
        config.progress_monitor.phase_start("Building", None, 2)
        config.progress_monitor.step_complete("Building", 0)
        _ACTS[DOES](self._log)
        config.progress_monitor.phase_finish("Building")
        return None if DOES in ("nothing", "no memory") else IHostMemory(b"plan of " + json.dumps(trace).encode())


class EngineInspector:
    """Tells the convolutions of the network; FAKE_TENSORRT_DOES may make some of them FP16."""

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        kind = {"half": "Half"}.get(DOES, "Int8")
        layers = [{"Name": name, "LayerType": "CaskConvolution", "Weights": {"Type": kind}} for name in ("a", "b")]
        return json.dumps({"Layers": layers, "Bindings" if WEAK else "I/O Tensors": []})


class ICudaEngine:
    """A plan that was loaded."""

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector()


class Runtime:
    """Loads plans."""

    def __init__(self, log: ILogger) -> None:
        self._log = log

    def deserialize_cuda_engine(self, plan: IHostMemory) -> ICudaEngine | None:
        return None if DOES == "unloadable" else ICudaEngine()


class IPluginRegistry:
    """Takes any creator."""

    def __init__(self) -> None:
        self.creators: list[object] = []

    def register_creator(self, creator: object, namespace: str) -> bool:
        self.creators.append(creator)
        return True


_registry = IPluginRegistry()


def get_plugin_registry() -> IPluginRegistry:
    return _registry


def _print(log: ILogger) -> None:
    os.write(1, b"native code prints where our answers go\n")


def _run_out_of_memory(log: ILogger) -> None:
    log.log(Severity.ERROR, "Requested size was 5368709120 bytes: Cuda Runtime (out of memory)")


def _refuse(log: ILogger) -> None:
    log.log(Severity.ERROR, "Could not find any implementation for node stem.0")


def _kill(log: ILogger) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _abort(log: ILogger) -> None:
    os.write(2, b"terminate called after throwing an instance of 'nvinfer1::Bad'\n")
    os.abort()


def _hang(log: ILogger) -> None:
    pipe = os.open(os.environ["FAKE_TENSORRT_FIFO"], os.O_WRONLY)
    os.write(pipe, f"{os.getpid()}\n".encode())
    threading.Event().wait()


def _nothing(log: ILogger) -> None:
    return


_ACTS = {
    **dict.fromkeys(("build", "half", "unloadable"), _nothing),
    "print": _print,
    "no memory": _run_out_of_memory,
    "nothing": _refuse,
    "kill": _kill,
    "abort": _abort,
    "hang": _hang,
}
