"""Reads a usearch file that nobody vouches for, and says on stdout what it is; run as a process, which it may kill."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from deepir.runtime.store import load_usearch

_MOST_QUERIES = 2000
_NEIGHBOURS = 10


def main(path: Path) -> None:
    """Read the file, compare with all of it, and walk its graph from many sides."""
    content = path.read_bytes()
    index = load_usearch().Index.restore(content)
    if index is None:
        sys.exit("it is not a usearch file")
    keys = np.asarray(index.keys[:], np.uint64)
    if len(np.unique(keys)) != len(keys):
        sys.exit("it has several vectors for a key")
    vectors_nd = np.asarray(index.get(keys)) if len(keys) else np.empty((0, index.ndim), np.float32)
    if not np.isfinite(vectors_nd.astype(np.float64)).all():
        sys.exit("it holds NaN or infinity")
    if len(keys):
        index.search(vectors_nd[0], min(_NEIGHBOURS, len(keys)), exact=True)
    for row in np.unique(np.linspace(0, max(0, len(keys) - 1), min(len(keys), _MOST_QUERIES)).astype(int)):
        index.search(vectors_nd[row], min(_NEIGHBOURS, len(keys)))
    facts = {
        "dim": index.ndim,
        "count": len(keys),
        "dtype": index.dtype.name.lower(),
        "metric": index.metric_kind.name.lower(),
        "bytes": index.serialized_length,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
