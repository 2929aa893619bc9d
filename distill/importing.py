"""Turns published weights of other projects into a model of ours, whatever kind of file they are in."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepir.distill.checkpoint import Model, load_model
from deepir.distill.import_assemble import assemble
from deepir.distill.import_caffe import read_caffe
from deepir.distill.import_cirtorch import read_cirtorch
from deepir.distill.import_naver import read_naver
from deepir.distill.import_plain import LIBRARIES, read_plain
from deepir.distill.import_plan import ImportOptions, ImportReport, Parts, refuse_others
from deepir.distill.state import read_state
from deepir.distill.torch_file import read_torch_file
from deepir.errors import ModelError, OptionError

KINDS = ("auto", "caffe", "naver", "cirtorch", *LIBRARIES, "safetensors")
"""Kinds of files; `safetensors` is a checkpoint of our own."""

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_CAFFE_STARTS = (b"\x0a", b"\x12", b"\xa2\x06")
_OUR_KEY = "deepir"
_HEADER_LENGTH = 8
_ODD_CONTENT = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


def import_model(path: Path, options: ImportOptions | None = None, kind: str = "auto") -> tuple[Model, ImportReport]:
    """Read a file of any kind that is known, as a model with its description.

    Args:
        path: A .caffemodel, a .pt or .pth, a ZIP archive that holds one, or a .safetensors.
        options: What to make of it; by default what its authors tested with.
        kind: One of KINDS; `auto` looks into the file.

    Raises:
        ModelError: Missing, truncated, damaged, hostile, of another kind, or holding NaN.
        OptionError: Options that mean nothing for this kind, or values out of range.
    """
    options = options or ImportOptions()
    holding = file_kind(path)
    if holding == "safetensors" and _is_ours(path):
        return _ours(path, options, kind)
    try:
        parts = _read(path, holding, options, kind)
    except ModelError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ModelError(message) from error
    except _ODD_CONTENT as error:
        message = f"{path} has the names of a known checkpoint, but not its contents: {error}"
        raise ModelError(message.splitlines()[0]) from error
    return assemble(parts, path, options)


def file_kind(path: Path) -> str:
    """How a file is written, by its suffix or first bytes: `caffe`, `torch` or `safetensors`.

    Raises:
        ModelError: Missing, empty, or none of these.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_HEADER_LENGTH)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise ModelError(message) from error
    # the first bytes of a .safetensors are a length, which may look like anything
    if path.suffix == ".safetensors":
        return "safetensors"
    if start.startswith((_ZIP, _PICKLE)):
        return "torch"
    if path.suffix == ".caffemodel" or start.startswith(_CAFFE_STARTS):
        return "caffe"
    message = f"{path} is neither a .caffemodel, nor a .pt or .pth that torch wrote, nor a .safetensors"
    raise ModelError(message)


def _read(path: Path, holding: str, options: ImportOptions, kind: str) -> Parts:
    library = kind if kind in LIBRARIES else None
    if holding == "caffe":
        _check_kind(kind, "caffe")
        return read_caffe(path, options)
    if holding == "safetensors":
        _check_kind(kind, *LIBRARIES)
        return read_plain(read_state(path), options, library)
    content = read_torch_file(path)
    if not isinstance(content, Mapping):
        message = f"it holds {type(content).__name__}, not a checkpoint or a state dict"
        raise ModelError(message)
    if kind == "naver" or (kind == "auto" and "model_options" in content):
        return read_naver(content, options)
    if kind == "cirtorch" or (kind == "auto" and "meta" in content):
        return read_cirtorch(content, options)
    _check_kind(kind, *LIBRARIES)
    return read_plain(content, options, library)


def _ours(path: Path, options: ImportOptions, kind: str) -> tuple[Model, ImportReport]:
    _check_kind(kind, "safetensors")
    refuse_others(options, "deepir", set())
    model = load_model(path)
    names = tuple(model.network.state_dict())
    notes = ("it is a checkpoint of deepir already: copied as it is",)
    return model, ImportReport("deepir", model.spec.backbone, names, (), model.spec.whitening, notes)


def _check_kind(kind: str, *found: str) -> None:
    if kind not in ("auto", *found):
        message = f"--kind {kind} does not fit: the file is of the kind {' or '.join(found)}"
        raise OptionError(message)


def _is_ours(path: Path) -> bool:
    """Whether the header of a .safetensors carries our description."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(_HEADER_LENGTH))
            if length > path.stat().st_size:
                return False
            header: Any = json.loads(stream.read(length))
    except (ValueError, struct.error):
        return False
    return isinstance(header, dict) and _OUR_KEY in (header.get("__metadata__") or {})
