"""ONNX Runtime: runs the .onnx file on the CPU or through CUDA, and says which of them it really is."""

from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from numpy.typing import NDArray

from deepir.card import METADATA_KEY, OUTPUT_NAME, ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import EngineError, MissingDependency, ModelError
from deepir.optional import need
from deepir.runtime.run_checks import check_arrays, check_descriptors

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

_ONLY_FATAL = 4
"""ONNX Runtime writes its own lines to stderr below this level; every failure reaches us as an exception anyway."""

# it folds a bias into INT8 weights wrongly: the results of quantised models change (known defect of ONNX Runtime)
DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]


class OnnxBackend:
    """A model loaded by ONNX Runtime.

    Attributes:
        card: What the model file says of itself.
        name: "ONNX Runtime, CPU" or "ONNX Runtime, CUDA": asked from the session, not from what was wished.
    """

    def __init__(self, path: Path, device: str = "auto", *, threads: int = 0) -> None:
        runtime = need("onnxruntime")
        if not path.is_file():
            message = f"no such model: {path}"
            raise ModelError(message)
        self._path = path
        self._session: Any = _open_session(runtime, path, device, threads)
        self.card = read_card(self._session, path)
        self.name = f"ONNX Runtime, {'CUDA' if _CUDA in self._session.get_providers() else 'CPU'}"
        if device == "cuda" and _CUDA not in self._session.get_providers():
            self.close()
            raise _no_cuda(runtime)

    def run(self, *arrays: NDArray[Any]) -> Descriptors:
        """The file's inputs, in the order of `ModelCard.inputs`, give (N, D) descriptors of length 1.

        Raises:
            ShapeError: Not such inputs, for example images of another size than the model's.
            EngineError: ONNX Runtime cannot run the model, or it was closed.
            ModelError: The model gives NaN or infinity.
        """
        check_arrays(self.card, arrays)
        if self._session is None:
            message = f"the model {self._path} was closed"
            raise EngineError(message)
        feeds = dict(zip(self.card.inputs(), arrays, strict=True))
        try:
            descriptors_nd: Descriptors = self._session.run([OUTPUT_NAME], feeds)[0]
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            message = f"ONNX Runtime cannot run {self._path}: {first_line(error)}"
            raise EngineError(message) from error
        return check_descriptors(descriptors_nd, self._path)

    def close(self) -> None:
        """Give the memory back; the backend cannot run any more."""
        self._session = None

    def __enter__(self) -> "OnnxBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_session(runtime: ModuleType, path: Path, device: str, threads: int) -> Any:
    providers = _wanted_providers(runtime, device)
    runtime.set_default_logger_severity(_ONLY_FATAL)
    options = runtime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(
            str(path),
            options,
            providers=providers,
            disabled_optimizers=DISABLED_OPTIMIZERS,
            # its own way back to the CPU prints to stdout, where our JSON goes
            enable_fallback=0,
        )
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        if device == "cuda" and isinstance(error, RuntimeError):
            raise _no_cuda(runtime) from error
        if device == "auto" and _CUDA in providers and isinstance(error, RuntimeError):
            return _open_session(runtime, path, "cpu", threads)
        raise unreadable(path, error) from error


def _wanted_providers(runtime: ModuleType, device: str) -> list[str]:
    if device == "cpu":
        return [_CPU]
    # a list of what was compiled in, not of what will load: only the session knows
    if _CUDA in runtime.get_available_providers():
        return [_CUDA, _CPU]
    if device == "cuda":
        raise _no_cuda(runtime)
    return [_CPU]


def _no_cuda(runtime: ModuleType) -> MissingDependency:
    return MissingDependency(
        f"--device cuda: ONNX Runtime {runtime.__version__} cannot load CUDA on this machine "
        "(it needs onnxruntime-gpu, a driver, CUDA and cuDNN): pip install 'deepir[gpu]', or use --device cpu"
    )


def unreadable(path: Path, error: Exception) -> ModelError:
    """What to raise for a file that ONNX Runtime cannot read."""
    size = path.stat().st_size
    return ModelError(
        f"{path} ({size} bytes) is truncated or not an ONNX model: {first_line(error)}; "
        "copy it again, or write it again with deepir-export"
    )


def read_card(session: Any, path: Path) -> ModelCard:
    """The card of a file that ONNX Runtime opened.

    Raises:
        ModelError: Not a file of deepir, or its inputs are not those its card tells of.
    """
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    names = [tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())]
    if text is None or OUTPUT_NAME not in names:
        message = f"{path} is an ONNX file without a deepir card: write it with deepir-export"
        raise ModelError(message)
    card = ModelCard.from_json(text)
    if names != [*card.inputs(), OUTPUT_NAME]:
        message = f"{path} has the inputs and outputs {', '.join(names)}, its card tells of others: export it again"
        raise ModelError(message)
    return card


def first_line(error: Exception) -> str:
    """The sentence in one of ONNX Runtime's errors."""
    # "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from x failed:Protobuf parsing failed."
    return (str(error).splitlines() or [type(error).__name__])[0].rpartition(" : ")[2].rstrip(".")
