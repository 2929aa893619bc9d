"""Views as a faiss index with a list of labels beside it, for programs that search with faiss."""

from pathlib import Path
from typing import Any

import numpy as np

from deepir.errors import InputError
from deepir.files import replacing
from deepir.optional import need
from deepir.runtime.exchange_jsonl import write_labels
from deepir.runtime.exchanged import Exchanged


def labels_beside(path: Path) -> Path:
    """Where the labels of a faiss index lie."""
    return path.with_name(f"{path.name}.labels.jsonl")


def write_faiss(exchanged: Exchanged, path: Path) -> None:
    """Write an IndexIDMap2 over an IndexFlatIP, whose ids are the keys, and the list of labels.

    Raises:
        MissingDependency: faiss is not installed.
        InputError: The folder does not exist or cannot be written.
    """
    faiss = need("faiss")
    _, dim = exchanged.descriptors_nd.shape
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
    index.add_with_ids(np.ascontiguousarray(exchanged.descriptors_nd, np.float32), _ids(exchanged))
    write_labels(exchanged, labels_beside(path))
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))


def read_faiss(path: Path) -> Exchanged:
    """The vectors and ids of a faiss index from which vectors can be taken out again.

    Raises:
        MissingDependency: faiss is not installed.
        InputError: Missing, or not such a file.
    """
    faiss = need("faiss")
    if not path.is_file():
        message = f"no such file: {path}"
        raise InputError(message)
    try:
        # the name keeps it alive: what lies in it is freed with it
        whole = faiss.read_index(str(path))
        inner, ids = _inside(faiss, whole)
        vectors_nd = np.asarray(inner.reconstruct_n(0, inner.ntotal), np.float32).reshape(-1, inner.d)
    except (AttributeError, RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        message = f"{path} is not a faiss index whose vectors can be read ({reason}): export a flat one"
        raise InputError(message) from error
    return Exchanged(descriptors_nd=vectors_nd, keys=ids)


def _inside(faiss: Any, index: Any) -> tuple[Any, Any]:
    """The index below the map of ids, and the ids; rows are numbered from 0 where there is no map."""
    if hasattr(index, "id_map"):
        return faiss.downcast_index(index.index), faiss.vector_to_array(index.id_map)
    return index, np.arange(index.ntotal)


def _ids(exchanged: Exchanged) -> Any:
    return np.asarray(exchanged.keys).astype(np.int64)
