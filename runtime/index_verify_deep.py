"""Loads an index, searches for what it holds, and looks for its pictures; run as a process, which it may kill."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from deepir.errors import DeepIRError
from deepir.runtime.index_contents import Contents
from deepir.runtime.index_home import Home
from deepir.runtime.index_verify import Check
from deepir.runtime.pictures import THUMBNAIL, thumbnails_of

_MOST_QUERIES = 2000
_CHUNK = 8192
_LENGTH_TOLERANCE = 1e-3
_SAME = 0.999
"""A view that is asked for may find another picture of the same first."""


def deep_checks(path: Path) -> Iterator[Check]:
    """The checks that need every stored value.

    Raises:
        DeepIRError: It cannot be loaded.
    """
    _, contents = Home.open(path, write=False, wait=0)
    yield Check("load", "ok", f"{len(contents.items)} views with the changes of the journal")
    keys = contents.items.keys
    fits = len(keys) == len(contents.store.keys) and bool((contents.store.keys == keys).all())
    said = "the keys of usearch are those of the list of items"
    yield Check("keys", "ok" if fits else "fail", said if fits else f"not all {said}")
    if not fits:
        return
    yield _values_check(contents)
    yield _search_check(contents)
    yield from _picture_checks(path, contents)


def _values_check(contents: Contents) -> Check:
    keys, wrong = contents.items.keys, []
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        lengths = np.linalg.norm(contents.store.descriptors(part), axis=1)
        # NaN compares as false
        wrong += part[~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE)].tolist()
    if wrong:
        said = f"{len(wrong)} views have no direction, NaN or infinity, first the key {wrong[0]}"
        return Check("values", "fail", said)
    return Check("values", "ok", f"all {len(keys)} descriptors are finite and not zero")


def _search_check(contents: Contents) -> Check:
    keys = contents.items.keys
    rows = np.unique(np.linspace(0, max(0, len(keys) - 1), min(len(keys), _MOST_QUERIES)).round().astype(np.intp))
    lost = []
    for key in keys[rows]:
        (descriptor_1d,) = contents.store.descriptors(np.array([key], np.uint64))
        found = contents.search(descriptor_1d, 1)
        if not len(found.keys) or (found.keys[0] != key and found.similarities[0] < _SAME):
            lost.append(int(key))
    if lost:
        said = f"{len(lost)} of {len(rows)} views do not find themselves, first the key {lost[0]}"
        return Check("search", "fail", said)
    return Check("search", "ok", f"{len(rows)} views find themselves")


def _picture_checks(path: Path, contents: Contents) -> Iterator[Check]:
    folder, kept_folder = path.resolve().parent, thumbnails_of(path)
    there, missing, kept, lost = 0, [], 0, []
    for item in contents.items:
        if item.source and (folder / item.source).is_file():
            there += 1
        else:
            missing.append(item.source or f"(no path, key {item.key})")
        name = item.metadata.get(THUMBNAIL)
        if isinstance(name, str):
            kept += 1
            lost += [] if (kept_folder / Path(name).name).is_file() else [name]
    said = f"{there} of {len(contents.items)} pictures are where the index says"
    yield Check("pictures", "warn" if missing else "ok", f"{said}, not {missing[0]}" if missing else said)
    if kept:
        said = f"{kept - len(lost)} of {kept} small copies are in {kept_folder}"
        yield Check("thumbnails", "warn" if lost else "ok", f"{said}, not {lost[0]}" if lost else said)


def main(path: Path) -> None:
    """Write the checks to stdout as JSON."""
    try:
        checks = [asdict(check) for check in deep_checks(path)]
    except DeepIRError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(checks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
