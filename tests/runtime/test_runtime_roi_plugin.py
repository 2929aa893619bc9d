"""The plugin in TensorRT's own classes: the real modules of 10.3, 10.16 and 11.4, over libraries without content."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from deepir.errors import EngineError, MissingDependency
from deepir.optional import need
from deepir.pooling import roi_pool
from deepir.runtime import roi_plugin
from deepir.runtime.cuda import open_cuda
from deepir.runtime.roi_cubin import find_compiler
from deepir.runtime.roi_plugin import PLUGIN_NAME, PoolPlugin, make_creator, plugin_problem, pool_call, register_plugin

Variables = Callable[[str], dict[str, str]]
VERSIONS = ("10.3", "10.16", "11.4")

PROLOGUE = """
import ctypes, json, os
import numpy as np
import tensorrt as trt
from deepir.runtime import roi_plugin, roi_kernel
from deepir.runtime.roi_plugin import make_creator, plugin_problem, register_plugin

def tell(**facts):
    print(json.dumps(facts))

def described(kind, layout=None):
    tensor = trt.DynamicPluginTensorDesc()
    tensor.desc.type = kind
    tensor.desc.format = layout or trt.TensorFormat.LINEAR
    return tensor

# bindings of 10.3 crash when Python throws a plugin away; TensorRT itself takes the reference over
kept = []

def keep(plugin):
    kept.append(plugin)
    return plugin

def new_plugin():
    # through TensorRT's class, so that its own conversions are in the way
    fields = trt.PluginFieldCollection([])
    return keep(trt.IPluginCreatorV3One.create_plugin(creator, "RoIMaxPool", fields, trt.TensorRTPhase.BUILD))
"""


def run_in(variables: dict[str, str], script: str, **more: str) -> dict[str, Any]:
    """Run a script that tells facts, in a process of its own: one process imports one TensorRT."""
    words = [sys.executable, "-c", PROLOGUE + script]
    done = subprocess.run(words, env={**variables, **more}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_classes_take_the_plugin(tensorrt_bindings: Variables, version: str) -> None:
    facts = run_in(
        tensorrt_bindings(version),
        """
creator = make_creator(trt)
plugin = new_plugin()
maps, rows = trt.DimsExprs(4), trt.DimsExprs(2)
tell(
    version=trt.__version__,
    creator=[creator.name, creator.plugin_version, creator.plugin_namespace, len(creator.field_names)],
    plugin=[plugin.plugin_name, plugin.plugin_version, plugin.plugin_namespace, plugin.num_outputs],
    kinds=[isinstance(plugin, kind) for kind in
           (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)],
    is_all_three=[plugin.get_capability_interface(kind) is plugin for kind in
                  (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME)],
    copies=[type(keep(plugin.clone())) is type(plugin), keep(plugin.clone()) is plugin],
    types=[kind.name for kind in plugin.get_output_data_types([trt.DataType.HALF, trt.DataType.INT32])],
    ranks=[len(shape) for shape in plugin.get_output_shapes([maps, rows], [], None)],
    fields=[type(plugin.get_fields_to_serialize()) is trt.PluginFieldCollection_,
            len(plugin.get_fields_to_serialize()),
            plugin.get_fields_to_serialize() is plugin.get_fields_to_serialize()],
    tactics=plugin.get_valid_tactics(),
    workspace=plugin.get_workspace_size([], []),
)
""",
    )
    assert facts.pop("version").startswith(version)
    assert facts == {
        "creator": ["RoIMaxPool", "1", "", 0],
        "plugin": ["RoIMaxPool", "1", "", 1],
        "kinds": [True] * 4,
        "is_all_three": [True] * 3,
        "copies": [True, False],
        "types": ["HALF"],
        "ranks": [3],
        "fields": [True, 0, True],
        "tactics": [],
        "workspace": 0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_only_packed_floats_with_int32_windows_are_taken(tensorrt_bindings: Variables, version: str) -> None:
    facts = run_in(
        tensorrt_bindings(version),
        """
creator = make_creator(trt)
plugin = new_plugin()
F, H, I = trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.INT32
def taken(*kinds):
    tensors = [described(kind) for kind in kinds]
    return [plugin.supports_format_combination(position, tensors, 2) for position in range(3)]
wide = [described(F, trt.TensorFormat.CHW32), described(I), described(F, trt.TensorFormat.CHW32)]
tell(
    single=taken(F, I, F), half=taken(H, I, H), mixed=taken(F, I, H), mixed_back=taken(H, I, F),
    int8=taken(trt.DataType.INT8, I, trt.DataType.INT8), windows=taken(F, trt.DataType.INT64, F),
    wide=[plugin.supports_format_combination(position, wide, 2) for position in range(3)],
)
""",
    )
    assert facts == {
        "single": [True, True, True],
        "half": [True, True, True],
        "mixed": [True, True, False],
        "mixed_back": [True, True, False],
        "int8": [False, True, True],
        "windows": [True, False, True],
        "wide": [False, True, False],
    }


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_enqueue_computes_on_the_stream_it_is_given(
    tensorrt_bindings: Variables, version: str, fake_cuda_library: Path, tmp_path: Path
) -> None:
    facts = run_in(
        tensorrt_bindings(version),
        """
roi_kernel.DRIVER = os.environ["FAKE_CUDA"]
roi_kernel.compile_cubin = lambda sm: b"\\x7fELF"
creator = make_creator(trt)
attached = keep(new_plugin().attach_to_context(None))
driver = ctypes.CDLL(roi_kernel.DRIVER)
count = lambda name: ctypes.c_int.in_dll(driver, name).value
before = [count("loads"), count("preparations"), count("launches")]
windows = np.array([[0, 0, 6, 7], [1, 2, 4, 5], [3, 3, 3, 6]], dtype=np.int32)
maps = np.random.default_rng(3).normal(size=(2, 5, 6, 7))
equal = []
for kind, dtype in ((trt.DataType.FLOAT, np.float32), (trt.DataType.HALF, np.float16)):
    cells = maps.astype(dtype)
    result = np.full((2, 3, 5), 77, dtype)
    inputs = [trt.PluginTensorDesc(), trt.PluginTensorDesc()]
    inputs[0].dims, inputs[0].type = trt.Dims(cells.shape), kind
    inputs[1].dims, inputs[1].type = trt.Dims(windows.shape), trt.DataType.INT32
    at = [cells.ctypes.data, windows.ctypes.data]
    status = attached.enqueue(inputs, [trt.PluginTensorDesc()], at, [result.ctypes.data], 0, 4711)
    from deepir.pooling import roi_pool
    equal.append([status, bool((result == roi_pool(cells, windows)).all())])
inputs[0].dims = trt.Dims((2, 5, 6))
try:
    attached.enqueue(inputs, [trt.PluginTensorDesc()], at, [result.ctypes.data], 0, 4711)
    refused = ""
except roi_plugin.EngineError as error:
    refused = str(error)
tell(before=before, after=[count("loads"), count("preparations"), count("launches")], equal=equal, refused=refused,
     stream=ctypes.c_void_p.in_dll(driver, "stream_of_last_launch").value)
""",
        FAKE_CUDA=str(fake_cuda_library),
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert facts["before"] == [1, 1, 0]
    assert facts["after"] == [1, 1, 2]
    assert facts["equal"] == [[0, True], [0, True]]
    assert facts["stream"] == 4711
    assert "takes a map (N, C, H, W) and windows (R, 4), got (2, 5, 6) and (3, 4)" in facts["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_creator_is_registered_once_and_kept_alive(tensorrt_bindings: Variables, version: str) -> None:
    facts = run_in(
        tensorrt_bindings(version),
        """
import gc
# the rule about numpy is looked at elsewhere, and one environment has one numpy
roi_plugin._NUMPY_2_SINCE = (0, 0)
roi_plugin.find_compiler = lambda: None
stub = ctypes.CDLL("libnvinfer.so." + trt.__version__.split(".")[0])
problem = plugin_problem(trt)
register_plugin(trt)
register_plugin(trt)
gc.collect()
tell(problem=problem, registered=stub.fake_registrations(), kept=[c.name for c in roi_plugin._creators.values()])
""",
        FAKE_REGISTRY="1",
    )
    assert facts == {"problem": None, "registered": 1, "kept": ["RoIMaxPool"]}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_a_tensorrt_without_its_libraries_is_refused(tensorrt_bindings: Variables, version: str) -> None:
    facts = run_in(tensorrt_bindings(version), "tell(problem=plugin_problem(trt))")
    assert facts["problem"].startswith(f"TensorRT {version}")
    assert "gives no plugin registry" in facts["problem"]


@pytest.mark.slow
@pytest.mark.skipif(np.__version__.startswith("1."), reason="this environment has numpy 1, which 10.3 takes")
def test_the_real_10_3_is_refused_beside_numpy_2(tensorrt_bindings: Variables) -> None:
    facts = run_in(tensorrt_bindings("10.3"), "tell(problem=plugin_problem(trt))", FAKE_REGISTRY="1")
    assert facts["problem"].startswith(f"plugins of TensorRT 10.3.0 crash with numpy {np.__version__}")
    assert "pip install 'numpy<2'" in facts["problem"]


@pytest.mark.rtx
def test_the_real_tensorrt_rtx_takes_no_plugin() -> None:
    trt = need("tensorrt_rtx_bindings")
    assert "takes no such plugin: use --pool native" in str(plugin_problem(trt))
    with pytest.raises(EngineError, match=r"tensorrt_rtx_bindings .* takes no such plugin"):
        register_plugin(trt)


class FakeRegistry:
    """Stands for TensorRT's own, which only its libraries bring."""

    def __init__(self, answer: bool = True) -> None:
        self.answer = answer
        self.creators: list[object] = []

    def register_creator(self, creator: object, namespace: str) -> bool:
        self.creators.append((creator, namespace))
        return self.answer


def fake_tensorrt(version: str = "11.4.0", registry: FakeRegistry | None = None) -> Any:
    """What of the module the rules look at."""
    kinds = {name: type(name, (), {}) for name in ("IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime")}
    return SimpleNamespace(
        __name__=f"fake {version} {id(registry)}",
        __version__=version,
        IPluginV3=type("IPluginV3", (), {}),
        IPluginCreatorV3One=type("IPluginCreatorV3One", (), {}),
        INetworkDefinition=SimpleNamespace(add_plugin_v3=None),
        PluginFieldCollection=list,
        PluginFieldCollection_=list,
        DimsExprs=lambda rank: [None] * rank,
        DataType=SimpleNamespace(HALF="HALF"),
        get_plugin_registry=lambda: registry,
        **kinds,
    )


@pytest.fixture
def can_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_plugin, "find_compiler", lambda: None)


@pytest.mark.usefixtures("can_compile")
@pytest.mark.parametrize(
    ("version", "numpy", "refused"),
    [
        ("10.3.0", "2.0.0", True),
        ("10.3.0", "1.26.4", False),
        ("10.13.3.9", "2.4.6", True),
        ("10.15.1.29", "2.4.6", True),
        ("10.16.0.72", "2.4.6", False),
        ("11.0.0", "2.4.6", False),
        ("11.4.0.106", "1.26.4", False),
    ],
)
def test_numpy_2_is_refused_before_10_16(
    version: str, numpy: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", numpy)
    problem = plugin_problem(fake_tensorrt(version, FakeRegistry()))
    assert ("numpy<2" in str(problem)) is refused


def test_without_a_compiler_the_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler() -> None:
        message = "nothing compiles here"
        raise MissingDependency(message)

    monkeypatch.setattr(roi_plugin, "find_compiler", no_compiler)
    assert plugin_problem(fake_tensorrt("11.4.0", FakeRegistry())) == "nothing compiles here"


@pytest.mark.usefixtures("can_compile")
def test_a_name_that_is_taken_is_an_error_and_nothing_is_kept() -> None:
    trt = fake_tensorrt("11.4.0", FakeRegistry(answer=False))
    with pytest.raises(EngineError, match="already knows another plugin RoIMaxPool 1"):
        register_plugin(trt)
    assert trt.__name__ not in roi_plugin._creators


@pytest.mark.usefixtures("can_compile")
def test_registering_twice_registers_once_in_the_empty_namespace() -> None:
    registry = FakeRegistry()
    trt = fake_tensorrt("11.4.0", registry)
    register_plugin(trt)
    register_plugin(trt)
    ((creator, namespace),) = registry.creators
    assert namespace == ""
    assert roi_plugin._creators.pop(trt.__name__) is creator


def fake_plugin() -> PoolPlugin:
    plugin: PoolPlugin = make_creator(fake_tensorrt()).create_plugin(PLUGIN_NAME, [], None)
    return plugin


def test_the_result_has_the_images_the_windows_and_the_channels() -> None:
    shapes = fake_plugin().get_output_shapes([["N", "C", "H", "W"], ["R", 4]], [], None)
    assert shapes == [["N", "R", "C"]]


def test_a_plugin_attaches_with_its_kernel_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    kernel = SimpleNamespace(prepare=lambda: done.append("prepared"), launch=lambda *words: done.append("launched"))
    monkeypatch.setattr(roi_plugin, "kernel_of_current_gpu", lambda: kernel)
    plugin = fake_plugin()
    attached = plugin.attach_to_context(None)
    assert done == ["prepared"]
    assert attached is not plugin
    tensors = [SimpleNamespace(dims=(1, 2, 3, 4), type="FLOAT"), SimpleNamespace(dims=(5, 4))]
    assert attached.enqueue(tensors, [], [1, 2], [3], 0, 4) == 0
    # one that was never attached loads it then
    assert plugin.enqueue(tensors, [], [1, 2], [3], 0, 4) == 0
    assert plugin.enqueue(tensors, [], [1, 2], [3], 0, 4) == 0
    assert done == ["prepared", "launched", "prepared", "launched", "launched"]


def test_a_gpu_that_cannot_load_the_kernel_says_so_when_attaching(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        message = "no code for this GPU"
        raise EngineError(message)

    monkeypatch.setattr(roi_plugin, "kernel_of_current_gpu", refuse)
    with pytest.raises(EngineError, match="no code for this GPU"):
        fake_plugin().attach_to_context(None)


@pytest.mark.parametrize(
    ("map_shape", "windows_shape"),
    [((2, 3, 4), (5, 4)), ((2, 3, 4, 5, 6), (5, 4)), ((2, 3, 4, 5), (5,)), ((2, 3, 4, 5), (5, 5)), ((), ())],
)
def test_shapes_of_another_node_are_refused(map_shape: tuple[int, ...], windows_shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="build the engine from a file that deepir-export wrote"):
        pool_call(map_shape, windows_shape, half=False)


def test_a_map_of_tensorrt_lies_without_gaps() -> None:
    call = pool_call((2, 3, 4, 5), (7, 4), half=True)
    assert (call.shape, call.strides, call.regions, call.half) == ((2, 3, 4, 5), (60, 20, 5, 1), 7, True)


def pool_model(half: bool) -> ModelProto:
    """Images through a convolution and the bare node RoIMaxPool, windows as an input."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    rng = np.random.default_rng(5)
    kernel = rng.normal(size=(8, 3, 3, 3)).astype(np.float16 if half else np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node(PLUGIN_NAME, ["map", "rois"], ["pooled"], domain="deepir"),
    ]
    inputs = [
        helper.make_tensor_value_info("images", kind, [2, 3, 16, 12]),
        helper.make_tensor_value_info("rois", TensorProto.INT32, [5, 4]),
    ]
    outputs = [
        helper.make_tensor_value_info("pooled", kind, [2, 5, 8]),
        helper.make_tensor_value_info("map", kind, [2, 8, 16, 12]),
    ]
    graph = helper.make_graph(nodes, "pool", inputs, outputs, [numpy_helper.from_array(kernel, "kernel")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("deepir", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def tensorrt() -> Iterator[tuple[Any, Any]]:
    """The real library with a GPU under it: the module and CUDA, its context current."""
    trt = pytest.importorskip("tensorrt")
    try:
        cuda = open_cuda()
        find_compiler()
    except MissingDependency as error:
        pytest.skip(str(error))
    problem = plugin_problem(trt)
    if problem:
        pytest.skip(problem)
    with cuda.current():
        yield trt, cuda


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
def test_a_real_engine_pools_its_map_as_numpy_does(tensorrt: tuple[Any, Any], half: bool) -> None:
    trt, cuda = tensorrt
    register_plugin(trt)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(pool_model(half).SerializeToString())
    assert parsed, [parser.get_error(number).desc() for number in range(parser.num_errors)]
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan is not None
    context = trt.Runtime(logger).deserialize_cuda_engine(plan).create_execution_context()

    dtype = np.float16 if half else np.float32
    rng = np.random.default_rng(6)
    arrays = {
        "images": rng.normal(size=(2, 3, 16, 12)).astype(dtype),
        "rois": np.array([[0, 0, 16, 12], [0, 0, 8, 8], [3, 4, 5, 6], [7, 7, 7, 9], [-4, 2, 99, 5]], dtype=np.int32),
        "pooled": np.zeros((2, 5, 8), dtype),
        "map": np.zeros((2, 8, 16, 12), dtype),
    }
    stream = cuda.stream()
    pointers = {name: cuda.allocate(array.nbytes) for name, array in arrays.items()}
    for name, array in arrays.items():
        cuda.upload(pointers[name], array, stream)
        context.set_tensor_address(name, pointers[name])
    assert context.execute_async_v3(stream)
    for name in ("pooled", "map"):
        cuda.download(arrays[name], pointers[name], stream)
    cuda.synchronise(stream)
    windows = np.clip(arrays["rois"], 0, [16, 12, 16, 12])
    np.testing.assert_array_equal(arrays["pooled"], roi_pool(arrays["map"], windows))
    if not half:
        session = need("onnxruntime").InferenceSession(convolution_alone().SerializeToString())
        (expected,) = session.run(["map"], {"images": arrays["images"]})
        # the GPU multiplies with fewer digits (TF32)
        np.testing.assert_allclose(arrays["map"], expected, atol=0.05)


def convolution_alone() -> ModelProto:
    model = pool_model(half=False)
    del model.graph.node[1], model.graph.input[1], model.graph.output[0]
    return model
