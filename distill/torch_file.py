"""Reads .pt and .pth files of other projects without running, or even importing, anything they name."""

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepir.errors import ModelError

_NUMBERS = re.compile(r"[fiu][1248]|b1")
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_MOST_EXPANSION = 20
_SMALL = 1 << 20


class PickledObject:
    """An instance of a class that was not loaded: the values it held, and nothing that could run.

    Attributes:
        state: Its attributes by name.
    """

    def __new__(cls, *_: object) -> "PickledObject":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class PickledPca(PickledObject):
    """A fitted PCA of scikit-learn."""


class PickledArray:
    """A numpy array or number as the file describes it; numpy itself never sees the description."""

    def __init__(self, *_: object) -> None:
        self._state: Any = None

    def __setstate__(self, state: object) -> None:
        self._state = state

    def array(self) -> NDArray[Any]:
        """The array.

        Raises:
            ModelError: Not an array of plain numbers, or one whose shape and bytes disagree.
        """
        try:
            _, shape, dtype, by_columns, content = self._state
            values: NDArray[Any] = np.frombuffer(content, dtype.numpy()).reshape(
                shape, order="F" if by_columns else "C"
            )
        except (TypeError, ValueError, AttributeError) as error:
            message = f"a pickled array is not what numpy writes: {error}"
            raise ModelError(message) from error
        return values


class _PickledDtype:
    def __init__(self, name: object = "", *_: object) -> None:
        self._name = str(name)
        self._order = "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1:
            self._order = str(state[1])

    def numpy(self) -> np.dtype[Any]:
        if not _NUMBERS.fullmatch(self._name) or self._order not in "<>|=":
            message = f"values of type {self._order}{self._name}"
            raise ValueError(message)
        return np.dtype(self._order + self._name)


def read_torch_file(path: Path) -> Any:
    """What torch.save wrote, in its zip or its older form, or a ZIP archive that holds one such file.

    Objects that are not tensors, numbers, texts and their containers come as `PickledObject` and `PickledArray`; only
    what published retrieval checkpoints hold is known (method.md 5), and any other name is refused.

    Raises:
        ModelError: Missing, truncated, damaged, or asking for a class or function that is not known.
    """
    try:
        # messages about pickle protocols and storages are for those who wrote the file
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins()):
            warnings.simplefilter("ignore")
            return torch.load(_source(path), map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:
        named = _GLOBAL.search(str(error))
        if named is not None:
            message = f"{path} asks for {named[1]!r}, which no known checkpoint needs: refused, nothing of it was run"
        else:
            message = f"cannot read {path}: {_reason(error)}"
        raise ModelError(message) from error


def as_array(value: object) -> NDArray[Any] | None:
    """A tensor or a pickled array as an array, None for anything else; bfloat16 becomes float32.

    Raises:
        ModelError: Not plain numbers.
    """
    if isinstance(value, PickledArray):
        return value.array()
    if isinstance(value, Tensor):
        tensor = _plain(value)
        array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return array
    return None


def tensors_of(state: object) -> dict[str, Tensor]:
    """The tensors of a state dict by name, without the `module.` of networks trained on several devices.

    Raises:
        ModelError: Not a state dict, or one without tensors.
    """
    found = state.items() if isinstance(state, dict) else ()
    tensors = {str(name).removeprefix("module."): _plain(value) for name, value in found if isinstance(value, Tensor)}
    if not tensors:
        message = "it holds no state dict with tensors"
        raise ModelError(message)
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def tensor_of(value: object) -> Tensor | None:
    """A tensor or a pickled array as an FP64 tensor, None for anything else."""
    array = as_array(value)
    return None if array is None else torch.from_numpy(array.astype(np.float64))


def _plain(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        message = f"it holds a tensor that is sparse, quantised or complex, of type {tensor.dtype}"
        raise ModelError(message)
    return tensor.detach()


def _source(path: Path) -> Path | io.BytesIO:
    """The file, or the one checkpoint inside an archive, as the downloads of the authors are."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        names = [entry for entry in archive.infolist() if entry.filename.endswith((".pt", ".pth", ".pth.tar"))]
        if any(entry.filename.endswith("/data.pkl") for entry in archive.infolist()):
            return path
        if len(names) != 1:
            inside = ", ".join(entry.filename for entry in names) or "none"
            message = f"{path} is an archive that should hold one .pt or .pth file, found {inside}"
            raise ModelError(message)
        if names[0].file_size > _MOST_EXPANSION * path.stat().st_size + _SMALL:
            message = f"{path} would grow to {names[0].file_size} bytes, which no weights do: refused"
            raise ModelError(message)
        return io.BytesIO(archive.read(names[0]))


def _stand_ins() -> list[Any]:
    """What stands for the names that a checkpoint may use: (stand-in, full name)."""
    named: dict[str, Any] = {f"sklearn.decomposition.{module}.PCA": PickledPca for module in ("pca", "_pca")}
    named |= {
        f"{package}utils.watcher.{name}": PickledObject
        for package in ("", "dirtorch.")
        for name in ("Watch", "AverageMeter", "TensorBoard")
    }
    named |= {"numpy.ndarray": PickledArray, "numpy.dtype": _PickledDtype, "collections.defaultdict": _plain_dict}
    for core in ("core", "_core"):
        named |= {
            f"numpy.{core}.multiarray._reconstruct": _array_to_come,
            f"numpy.{core}.multiarray.scalar": _number,
        }
    return [(stand_in, name) for name, stand_in in named.items()]


def _plain_dict(*_: object) -> dict[Any, Any]:
    return {}


def _array_to_come(*_: object) -> PickledArray:
    return PickledArray()


def _number(dtype: object, content: object = b"") -> PickledArray:
    number = PickledArray()
    number.__setstate__((1, (), dtype, False, content))
    return number


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return error.strerror or str(error)
    first = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
    return f"truncated, damaged, or not what torch.save writes ({first})"
