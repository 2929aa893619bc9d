"""usearch files that other programs wrote: looked at in a process of their own first, then only read."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from deepir.errors import IndexFileError
from deepir.runtime.codes import Codes, Dtype
from deepir.runtime.index_file import unusable
from deepir.runtime.index_footer import Footer, ModelReference
from deepir.runtime.items import ItemTable
from deepir.runtime.store import DescriptorStore, is_usearch

NOT_OURS = ModelReference("unknown", "", "", "")
"""Stands for the model of an index that does not say which it is."""

_SECONDS = 600
_DTYPES: dict[str, Dtype] = {"i8": "i8", "f16": "f16", "f32": "f32"}
_PROBE = "deepir.runtime.index_probe"


def probe(path: Path) -> dict[str, Any]:
    """What a file says of itself: `dim`, `count`, `dtype`, `metric`, `bytes` of usearch, `sha256` of the whole file.

    It is found out in a process that may die of it.

    Every descriptor is compared with one of them, and many are searched for along the graph.

    Raises:
        IndexFileError: usearch cannot read it, or dies of it.
    """
    words = [sys.executable, "-m", _PROBE, str(path)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603 our own words, no shell
    except subprocess.TimeoutExpired as error:
        raise unusable(path, f"usearch did not finish reading it within {_SECONDS} seconds") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise unusable(path, f"usearch dies of it ({name})")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise unusable(path, last)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def open_foreign(path: Path, content: memoryview) -> tuple[Footer, ItemTable, DescriptorStore]:
    """Read a usearch file without a footer; each key becomes the label `key N`.

    Raises:
        IndexFileError: Not a whole usearch file, or none of descriptors that are compared by their cosine.
    """
    if not is_usearch(content):
        raise unusable(path, "it is not a usearch file, or cut short among its vectors")
    facts = probe(path)
    whole = bytes(content)
    if facts["sha256"] != hashlib.sha256(whole).hexdigest():
        raise unusable(path, "another program writes over it at this moment")
    if facts["bytes"] != len(content):
        reason = f"usearch explains {facts['bytes']} of its bytes"
        raise unusable(path, f"{reason}: cut short, or lengthened, by another program?")
    if facts["metric"] not in {"cos", "ip"} or facts["dtype"] not in _DTYPES:
        reason = f"it compares {facts['dtype']} values by {facts['metric']}"
        raise unusable(path, f"{reason}, and only f32, f16 and i8 by cosine are read")
    codes = Codes(_DTYPES[facts["dtype"]], facts["dim"])
    try:
        store = DescriptorStore.restore(memoryview(whole), codes, mapped=False)
    except IndexFileError as error:
        raise unusable(path, error) from error
    items = ItemTable()
    for key in store.keys:
        items.append(np.array([key], np.uint64), f"key {key}", [""], [{}])
    return Footer(model=NOT_OURS, codes=codes, next_key=int(store.keys.max(initial=0)) + 1), items, store
