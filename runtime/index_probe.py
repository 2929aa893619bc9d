"""Reads a usearch file that nobody vouches for, and says on stdout what it is; run as a process, which it may kill."""

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.runtime.store import load_usearch

_MOST_QUERIES = 2000
_NEIGHBOURS = 10
_MOST_UNEQUAL = 1.1
"""The longest vector by the shortest, where an inner product orders as the cosine does; whole numbers round."""

_COPIES = 8
_SPARE = 1 << 30
"""Memory that reading may take beside what the process has: for one flipped bit usearch took 8 GB and 40 seconds."""


def main(path: Path) -> None:
    """Read the file, compare with all of it, and walk its graph from many sides."""
    content = path.read_bytes()
    usearch = load_usearch()
    _limit_memory(_COPIES * len(content) + _SPARE)
    index = usearch.Index.restore(content)
    if index is None:
        sys.exit("it is not a usearch file")
    if index.multi:
        sys.exit("it allows several vectors for a key")
    keys = np.asarray(index.keys[:], np.uint64)
    if len(np.unique(keys)) != len(keys):
        sys.exit("it has several vectors for a key")
    vectors_nd = np.asarray(index.get(keys)) if len(keys) else np.empty((0, index.ndim), np.float32)
    if vectors_nd.dtype.kind == "f" and not np.isfinite(vectors_nd).all():
        sys.exit("it holds NaN or infinity")
    metric = index.metric_kind.name.lower()
    if metric == "ip" and len(keys):
        _check_lengths(np.sqrt(np.einsum("nd,nd->n", vectors_nd, vectors_nd, dtype=np.float32)))
    if len(keys):
        index.search(vectors_nd[0], min(_NEIGHBOURS, len(keys)), exact=True)
    for row in np.unique(np.linspace(0, max(0, len(keys) - 1), min(len(keys), _MOST_QUERIES)).astype(int)):
        index.search(vectors_nd[row], min(_NEIGHBOURS, len(keys)))
    facts = {
        "dim": index.ndim,
        "count": len(keys),
        "dtype": index.dtype.name.lower(),
        "metric": metric,
        "bytes": index.serialized_length,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    sys.stdout.write(json.dumps(facts))


def _check_lengths(length_n: NDArray[np.float32]) -> None:
    shortest, longest = float(length_n.min()), float(length_n.max())
    if longest > _MOST_UNEQUAL * shortest:
        sys.exit(f"it compares by inner product, which is no cosine for lengths of {shortest:.3g} to {longest:.3g}")


def _limit_memory(more: int) -> None:
    # where the system tells how much there is, and has such a limit
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
