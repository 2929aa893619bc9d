"""Which model a file holds, without loading it."""

import mmap
from pathlib import Path

from deepir.runtime.engine_beside import ENGINE_SUFFIXES
from deepir.runtime.sidecar import sidecar_path

_BEFORE, _AFTER = b'"fingerprint": "', b'"'
"""Around the fingerprint in the model's card, which is JSON in an ONNX file and beside an engine."""


def read_fingerprint(model: Path) -> str | None:
    """The fingerprint in the card of an ONNX file or an engine; None where there is none, or it cannot be read."""
    card = sidecar_path(model) if model.suffix.lower() in ENGINE_SUFFIXES else model
    try:
        with card.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # from the end, where an ONNX file has its card, behind the weights
            start = content.rfind(_BEFORE) + len(_BEFORE)
            end = content.find(_AFTER, start)
            return content[start:end].decode("ascii") if start >= len(_BEFORE) and end > start else None
    except (OSError, ValueError):
        # mmap raises ValueError for an empty file
        return None
