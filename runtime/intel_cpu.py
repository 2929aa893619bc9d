"""OpenVINO: runs the .onnx file on the CPU, INT8 files several times faster than ONNX Runtime does (tensorrt.md 11)."""

from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.errors import EngineError, ModelError
from deepir.optional import need
from deepir.runtime.cache import cache_folder
from deepir.runtime.openvino_hint import Trial, choose_hint
from deepir.runtime.openvino_model import PrecisionHint, compile_file, reason
from deepir.runtime.openvino_refusal import NotRunError
from deepir.runtime.run_checks import check_arrays, check_descriptors


class OpenVinoBackend:
    """A model compiled by OpenVINO.

    Attributes:
        card: What the model file says of itself.
        name: "OpenVINO, CPU (bf16)": what is not INT8 is computed in the precision named.
        precision: That precision, "f32", "bf16" or "f16".
        proof: The trial that chose the precision; None when it was given.
    """

    def __init__(
        self, path: Path, *, threads: int = 0, hint: PrecisionHint | None = None, cache: Path | None = None
    ) -> None:
        """Load a file; the first time on a machine it is compiled, and tried in two precisions unless one is given.

        Args:
            path: An .onnx file of deepir.
            threads: CPU threads; 0 lets OpenVINO choose.
            hint: None takes the fastest precision whose descriptors are those of ONNX Runtime.
            cache: Where the compiled form and the trials are kept, by default `openvino` in `cache_folder()`.

        Raises:
            MissingDependency: OpenVINO or ONNX Runtime, which writes out the file's functions, is not installed.
            ModelError: The file is missing, damaged or not of deepir.
            NotRunError: OpenVINO cannot compile it.
            NotProvenError: In no precision are its descriptors those of ONNX Runtime.
        """
        need("openvino")
        if not path.is_file():
            message = f"no such model: {path}"
            raise ModelError(message)
        usual = cache_folder()
        folder = cache or (usual / "openvino" if usual else None)
        self.proof: Trial | None = None
        if hint is None:
            self.proof = choose_hint(
                path, threads, folder, lambda tried: OpenVinoBackend(path, threads=threads, hint=tried, cache=cache)
            )
            hint = self.proof.hint
        compiled = compile_file(path, hint, threads, folder)
        self._path = path
        self.card = compiled.card
        self.precision = compiled.precision
        self.name = f"OpenVINO, CPU ({self.precision})"
        self._request: Any = compiled.model.create_infer_request()

    def run(self, *arrays: NDArray[Any]) -> Descriptors:
        """The file's inputs, in the order of `ModelCard.inputs`, give (N, D) descriptors of length 1.

        Raises:
            ShapeError: Not such inputs, for example images of another size than the model's.
            NotRunError: OpenVINO cannot run the model.
            EngineError: It was closed.
            ModelError: The model gives NaN or infinity.
        """
        check_arrays(self.card, arrays)
        if self._request is None:
            message = f"the model {self._path} was closed"
            raise EngineError(message)
        feeds = dict(zip(self.card.inputs(), arrays, strict=True))
        try:
            # the arrays are read where they lie; what comes out is copied, because the next run overwrites it
            found = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        except Exception as error:  # OpenVINO raises RuntimeError, and others for what it did not foresee
            raise NotRunError(self._path, reason(error)) from error
        descriptors_nd: Descriptors = found[0]
        return check_descriptors(descriptors_nd, self._path)

    def close(self) -> None:
        """Give the memory back; the backend cannot run any more."""
        self._request = None

    def __enter__(self) -> "OpenVinoBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
