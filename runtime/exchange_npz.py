"""Views in an .npz file of numpy: names, labels, keys, descriptors and metadata; no pickled objects.

    names, labels   (N,) texts       names are paths of pictures, seen from the folder of the file
    keys            (N,) uint64
    descriptors     (N, D) float32, of length 1, behind the map of the index where it has one
    metadata        one text: a JSON list of N objects
    footer          one text: what the index's footer says, JSON
    whitening       bytes of the map; none where there is no map

Only `descriptors` and `labels` must be there.
"""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import IndexFileError, InputError
from deepir.files import replacing
from deepir.runtime.exchanged import Exchanged
from deepir.runtime.index_footer import Footer
from deepir.runtime.index_whitening import IndexWhitening

_KINDS = {
    "names": ("U", 1),
    "labels": ("U", 1),
    "keys": ("iu", 1),
    "descriptors": ("f", 2),
    "metadata": ("U", 0),
    "footer": ("U", 0),
    "whitening": ("u", 1),
}
"""The type of the values of each array, and its axes."""

_NOT_READABLE = (
    *(EOFError, IndexFileError, KeyError, OverflowError, RuntimeError, TypeError, ValueError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise for files that are damaged or of another kind."""


def write_npz(exchanged: Exchanged, path: Path) -> None:
    """Write views whole or not at all.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    footer = "" if exchanged.footer is None else exchanged.footer.to_json()
    whitening = b"" if exchanged.whitening is None else exchanged.whitening.to_bytes()
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            names=np.array(exchanged.sources, dtype=np.str_),
            labels=np.array(exchanged.labels, dtype=np.str_),
            keys=np.asarray(exchanged.keys, np.uint64),
            descriptors=exchanged.descriptors_nd.astype(np.float32, copy=False),
            metadata=np.array(json.dumps([dict(entry) for entry in exchanged.metadata or ()])),
            footer=np.array(footer),
            whitening=np.frombuffer(whitening, np.uint8),
        )


def read_npz(path: Path) -> Exchanged:
    """Read what `write_npz` wrote, or a file of another program with the same names.

    Raises:
        InputError: Missing, truncated, or not such a file.
    """
    try:
        return _exchanged(_read_arrays(path))
    except OSError as error:
        message = f"cannot read {path}: {error.strerror or error}"
        raise InputError(message) from error
    except _NOT_READABLE as error:
        message = f"{path} is truncated or not an .npz file of descriptors ({error}): write it again"
        raise InputError(message) from error


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as stream:
        loaded = np.load(stream, allow_pickle=False)
        if not isinstance(loaded, Mapping):
            message = "it is a single array"
            raise ValueError(message)
        arrays = {name: loaded[name] for name in _KINDS if name in loaded}
    if "descriptors" not in arrays:
        message = "it has no array named descriptors"
        raise ValueError(message)
    for name, array in arrays.items():
        kinds, axes = _KINDS[name]
        if array.dtype.kind not in kinds or array.ndim != axes:
            message = f"its array {name} has values of the type {array.dtype} and the shape {array.shape}"
            raise ValueError(message)
    return arrays


def _exchanged(arrays: Mapping[str, NDArray[Any]]) -> Exchanged:
    text = str(arrays.get("footer", ""))
    footer = Footer.from_json(text) if text else None
    metadata = json.loads(str(arrays["metadata"])) if "metadata" in arrays else None
    if not isinstance(metadata, list | None):
        message = "its metadata are not a list"
        raise TypeError(message)
    whitening = None
    if footer is not None and footer.whitening is not None:
        whitening = IndexWhitening.from_bytes(footer.whitening, arrays["whitening"].tobytes())
    return Exchanged(
        descriptors_nd=arrays["descriptors"],
        keys=arrays.get("keys"),
        labels=arrays["labels"].tolist() if "labels" in arrays else None,
        sources=arrays["names"].tolist() if "names" in arrays else None,
        metadata=metadata,
        model="" if footer is None else footer.model.fingerprint,
        whitened=whitening is not None,
        footer=footer,
        whitening=whitening,
    )
