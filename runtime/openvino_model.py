"""An ONNX file compiled by OpenVINO for this processor, and its compiled form kept on disk."""

import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepir.card import ModelCard
from deepir.errors import ModelError
from deepir.files import file_sha256
from deepir.optional import need
from deepir.runtime.cache import cache_key, keep
from deepir.runtime.openvino_refusal import NotRunError
from deepir.runtime.ort import read_card, unreadable

PrecisionHint = Literal["auto", "f32"]
"""What is not INT8 is computed in the precision that OpenVINO likes best on this processor, or in FP32."""

HINTS: tuple[PrecisionHint, ...] = ("auto", "f32")

DEVICE = "CPU"

_SCHEMA = "deepir.compiled/1"
_SUFFIX = ".blob"
_MOST_KEPT = 8
_ONLY_FATAL = 4
_PLACES = ("Exception from ", "Check '", "FrontEnd API failed")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model ready to run: OpenVINO's own object, and the card of the file."""

    model: Any
    card: ModelCard

    @property
    def precision(self) -> str:
        """What is not INT8 is computed in it: "f32", "bf16" or "f16"."""
        return str(self.model.get_property("INFERENCE_PRECISION_HINT").to_string())


def compile_file(path: Path, hint: PrecisionHint, threads: int, folder: Path | None) -> Compiled:
    """Compile a file, or take what was compiled before of the same content, on this processor, by the same OpenVINO.

    Args:
        path: An .onnx file of deepir.
        hint: See `PrecisionHint`.
        threads: 0 lets OpenVINO choose.
        folder: Where compiled forms are kept; one that cannot be written is no error. None keeps nothing.

    Raises:
        MissingDependency: OpenVINO or ONNX Runtime is not installed.
        ModelError: The file is damaged or not of deepir.
        NotRunError: OpenVINO cannot compile it.
    """
    openvino = need("openvino")
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    if hint == "f32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    kept = None if folder is None else compiled_path(path, hint, folder)
    if kept is not None and (compiled := _kept(kept, options)) is not None:
        return compiled
    content, card = inline(path)
    try:
        core = _core(os.getpid())
        compiled = Compiled(core.compile_model(core.read_model(content), DEVICE, options), card)
    except Exception as error:  # OpenVINO raises RuntimeError, and others for what it did not foresee
        raise NotRunError(path, f"version {openvino.__version__}: {reason(error)}") from error
    _log.info("OpenVINO compiled %s with the hint %s", path, hint)
    if kept is not None:
        _keep(kept, compiled)
    return compiled


def compiled_path(path: Path, hint: PrecisionHint, folder: Path) -> Path:
    """Where the compiled form of a file is kept."""
    return folder / (cache_key(file_sha256(path), need("openvino").__version__, hint) + _SUFFIX)


def inline(path: Path) -> tuple[bytes, ModelCard]:
    """The file with its functions written out, which is all that OpenVINO reads, and its card.

    ONNX Runtime does it: written with all optimisations off, a model is the same but for its functions.

    Raises:
        ModelError: Damaged, or not of deepir.
    """
    runtime = need("onnxruntime")
    runtime.set_default_logger_severity(_ONLY_FATAL)
    options = runtime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "inlined.onnx"
        options.optimized_model_filepath = str(written)
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise unreadable(path, error) from error
        return written.read_bytes(), read_card(session, path)


def reason(error: Exception) -> str:
    """The sentence in one of OpenVINO's errors, whose first lines name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_PLACES)]
    return next(iter(told or lines), type(error).__name__).rstrip(".")


@functools.cache
def _core(_process: int) -> Any:
    """OpenVINO's entry, one for each process and never given back.

    OpenVINO 2026.4 gives the thread that loads it another stack for signal handlers, and frees that with its last
    object, in whichever thread that goes: then the next signal kills the process.
    """
    return need("openvino").Core()


def _kept(path: Path, options: dict[str, Any]) -> Compiled | None:
    try:
        head, _, blob = path.read_bytes().partition(b"\n")
        fields = json.loads(head)
        # OpenVINO's own reading of a damaged file may end the process
        if fields["schema"] != _SCHEMA or fields["sha256"] != hashlib.sha256(blob).hexdigest():
            _log.info("%s is damaged and made again", path)
            return None
        card = ModelCard.from_json(fields["card"])
    except (OSError, ValueError, KeyError, TypeError, ModelError):
        return None
    try:
        return Compiled(_core(os.getpid()).import_model(blob, DEVICE, options), card)
    except Exception as error:  # as above
        _log.info("%s cannot be loaded and is made again: %s", path, reason(error))
        return None


def _keep(path: Path, compiled: Compiled) -> None:
    stream = io.BytesIO()
    compiled.model.export_model(stream)
    blob = stream.getvalue()
    head = {"schema": _SCHEMA, "card": compiled.card.to_json(), "sha256": hashlib.sha256(blob).hexdigest()}
    if not keep(path, json.dumps(head).encode() + b"\n" + blob):
        return
    with contextlib.suppress(OSError):
        newest_first = sorted(path.parent.glob(f"*{_SUFFIX}"), key=lambda blob: blob.stat().st_mtime, reverse=True)
        for old in newest_first[_MOST_KEPT:]:
            old.unlink()
