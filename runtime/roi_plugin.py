"""The RoI max pool inside TensorRT: a stateless Python plugin, and why this machine may not take one."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from deepir.errors import EngineError, MissingDependency
from deepir.runtime.roi_cubin import find_compiler
from deepir.runtime.roi_kernel import PoolCall, RoiKernel, kernel_of_current_gpu

PLUGIN_NAME = "RoIMaxPool"
PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = ""

_MAP, _WINDOWS, _RESULT = range(3)
"""Positions of the plugin's tensors: two inputs, then the output."""

_NUMPY_2_SINCE = (10, 16)
"""Bindings before 10.16 misread arrays of numpy 2, and crash."""

# TensorRT keeps bare pointers to creators, so they must live as long as the process
_creators: dict[str, Any] = {}


def register_plugin(trt: ModuleType) -> None:
    """Make the plugin known to this TensorRT; calling it again does nothing.

    An engine built with the plugin is deserialised only after this.

    Raises:
        EngineError: This machine cannot take the plugin; says why and what to do (see `plugin_problem`).
    """
    if trt.__name__ in _creators:
        return
    problem = plugin_problem(trt)
    if problem:
        raise EngineError(problem)
    creator = make_creator(trt)
    if not trt.get_plugin_registry().register_creator(creator, PLUGIN_NAMESPACE):
        message = (
            f"TensorRT {trt.__version__} already knows another plugin {PLUGIN_NAME} {PLUGIN_VERSION}: "
            "load no plugin library of that name beside deepir"
        )
        raise EngineError(message)
    _creators[trt.__name__] = creator


def plugin_problem(trt: ModuleType) -> str | None:
    """Why the plugin cannot be used with this module on this machine, as a sentence; None where it can."""
    # TensorRT-RTX has the classes of plugins, and ends the whole process when it meets one
    if not hasattr(trt, "IPluginV3") or not hasattr(trt.INetworkDefinition, "add_plugin_v3"):
        return f"{trt.__name__} {trt.__version__} takes no such plugin: use --pool native"
    if int(np.__version__.partition(".")[0]) >= 2 and _release(trt) < _NUMPY_2_SINCE:
        return (
            f"plugins of TensorRT {trt.__version__} crash with numpy {np.__version__}: "
            "pip install 'numpy<2', or use --pool native"
        )
    if trt.get_plugin_registry() is None:
        return f"TensorRT {trt.__version__} gives no plugin registry: install its libraries, or use --pool native"
    try:
        find_compiler()
    except MissingDependency as error:
        return str(error)
    return None


def make_creator(trt: Any) -> Any:
    """The object by which TensorRT makes plugins; its classes belong to the module, so they are made for it."""
    kinds = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    plugin_class = type(PLUGIN_NAME, (PoolPlugin, *kinds), {"trt": trt, "kinds": kinds})

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name = PLUGIN_NAME
            self.plugin_version = PLUGIN_VERSION
            self.plugin_namespace = PLUGIN_NAMESPACE
            self.field_names = trt.PluginFieldCollection([])

        def create_plugin(self, _name: str, _fields: Any, _phase: Any) -> Any:
            return plugin_class()

    return Creator()


class PoolPlugin:
    """What TensorRT asks of one node, by the names of its own interface; it holds nothing but the loaded kernel.

    Attributes:
        trt: The module, set on the subclass that `make_creator` derives from this and from the module's classes.
        kinds: Those classes.
    """

    trt: Any
    kinds: tuple[Any, ...]

    def __init__(self) -> None:
        # pybind11 needs the initialiser of each of its classes called by name
        for kind in self.kinds:
            kind.__init__(self)
        self.plugin_name = PLUGIN_NAME
        self.plugin_version = PLUGIN_VERSION
        self.plugin_namespace = PLUGIN_NAMESPACE
        self.num_outputs = 1
        # TensorRT 10.3 keeps a bare pointer to it; it is of the class itself, because what merely converts to that
        # class is refused where TensorRT asks from a thread of its own
        self._fields = self.trt.PluginFieldCollection_(self.trt.PluginFieldCollection([]))
        self._kernel: RoiKernel | None = None

    def get_capability_interface(self, _kind: Any) -> "PoolPlugin":
        """Itself: one object is core, build and runtime."""
        return self

    def clone(self) -> "PoolPlugin":
        """A new object: there is no state to copy."""
        return type(self)()

    def attach_to_context(self, _resources: Any) -> "PoolPlugin":
        """A new object with the kernel loaded, which must not happen while a CUDA graph is captured.

        Raises:
            EngineError, MissingDependency: As `kernel_of_current_gpu`.
        """
        # first what may fail: bindings of 10.3 crash when a plugin that TensorRT never got is thrown away
        kernel = _loaded_kernel()
        attached = type(self)()
        attached._kernel = kernel
        return attached

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        """The result has the type of the map."""
        return [input_types[_MAP]]

    def get_output_shapes(self, inputs: Sequence[Any], _shape_inputs: Any, _builder: Any) -> list[Any]:
        """N, R, C of a map N, C, H, W and windows R, 4."""
        shape = self.trt.DimsExprs(3)
        shape[0], shape[1], shape[2] = inputs[_MAP][0], inputs[_WINDOWS][0], inputs[_MAP][1]
        return [shape]

    def supports_format_combination(self, position: int, tensors: Sequence[Any], _input_count: int) -> bool:
        """Everything without gaps: the map in 32-bit or 16-bit floats, the result likewise, the windows int32."""
        trt, tensor = self.trt, tensors[position].desc
        allowed = {
            _MAP: (trt.DataType.FLOAT, trt.DataType.HALF),
            _WINDOWS: (trt.DataType.INT32,),
            _RESULT: (tensors[_MAP].desc.type,),
        }[position]
        return tensor.format == trt.TensorFormat.LINEAR and tensor.type in allowed

    def configure_plugin(self, _inputs: Any, _outputs: Any) -> None:
        """Nothing depends on the network."""

    def on_shape_change(self, _inputs: Any, _outputs: Any) -> None:
        """Nothing: shapes come with each enqueue."""

    def get_valid_tactics(self) -> list[int]:
        """None: there is one kernel."""
        return []

    def set_tactic(self, _tactic: int) -> None:
        """Nothing: there is one kernel."""

    def get_workspace_size(self, _inputs: Any, _outputs: Any) -> int:
        """None."""
        return 0

    def get_fields_to_serialize(self) -> Any:
        """None: the engine holds no state of the plugin."""
        return self._fields

    def enqueue(self, inputs: Any, _outputs: Any, inputs_at: Any, outputs_at: Any, _workspace: int, stream: int) -> int:
        """Launch the kernel on the stream and return 0; nothing is allocated and nothing is waited for.

        TensorRT's bindings ignore the number and turn what is raised into a failed execution.

        Raises:
            EngineError: The launch is refused, or the shapes are not those of a file of deepir.
        """
        half = inputs[_MAP].type == self.trt.DataType.HALF
        call = pool_call(tuple(inputs[_MAP].dims), tuple(inputs[_WINDOWS].dims), half=half)
        self._kernel = self._kernel or _loaded_kernel()
        self._kernel.launch(call, (inputs_at[_MAP], inputs_at[_WINDOWS], outputs_at[0]), stream)
        return 0


def pool_call(map_shape: Sequence[int], windows_shape: Sequence[int], *, half: bool) -> PoolCall:
    """The launch for the shapes that TensorRT gives: N, C, H, W without gaps, and R, 4.

    Raises:
        EngineError: Other shapes, so the engine was not built from a file of deepir.
    """
    if len(map_shape) != 4 or len(windows_shape) != 2 or windows_shape[1] != 4:
        message = (
            f"{PLUGIN_NAME} takes a map (N, C, H, W) and windows (R, 4), got {tuple(map_shape)} and "
            f"{tuple(windows_shape)}: build the engine from a file that deepir-export wrote"
        )
        raise EngineError(message)
    return PoolCall.packed(map_shape, windows_shape[0], half=half)


def _loaded_kernel() -> RoiKernel:
    kernel = kernel_of_current_gpu()
    kernel.prepare()
    return kernel


def _release(trt: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in str(trt.__version__).split(".")[:2])
