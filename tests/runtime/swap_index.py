"""A writer that replaces an index again and again, and readers with the file mapped that must never notice.

Run as a program, because reading memory that is gone kills the process.
"""

import json
import mmap
import os
import struct
import sys
from pathlib import Path

import numpy as np

from deepir.card import ModelCard
from deepir.runtime import index_file
from deepir.runtime.index import Index
from deepir.spec import ModelSpec

DIM = 16
VIEWS = 30
ROWS = np.random.default_rng(0).normal(size=(2048, DIM)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)


def new_index(path: Path) -> None:
    """The views 0..VIEWS-1, each of the descriptor of its number, under the label `0`."""
    model = path.with_name("model.onnx")
    model.write_bytes(b"only its hash matters")
    size = {"sizes": ((32, 32),), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "stride": 1}
    card = ModelCard(ModelSpec(backbone="test:none", channels=DIM, dim=DIM, weights="a", **size))
    index = Index.create(card, model, dtype="i8")
    index.add("0", ROWS[:VIEWS], [f"{number}.jpg" for number in range(VIEWS)])
    index.save(path)


def replace(path: Path, swaps: int, done: mmap.mmap) -> None:
    """Step by step take the oldest view away, add one, give all of them a new label and write the file anew."""
    with Index.open(path, write=True) as index:
        for step in range(1, swaps + 1):
            index.add(str(step - 1), ROWS[None, VIEWS + step - 1], [f"{VIEWS + step - 1}.jpg"])
            index.remove([step])
            index.relabel(str(step - 1), str(step))
            done[:8] = struct.pack("<Q", step)
            index.save()


def check(index: Index, least: int) -> int:
    """The step of an index, which must be whole, and no earlier than what was done before it was opened."""
    items = list(index.items())
    numbers = [int(item.view.removesuffix(".jpg")) for item in items]
    step = int(items[0].label)
    assert step >= least, f"step {step}, but {least} was done before"
    assert index.generation >= least, f"generation {index.generation} after {least} saves"
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert len({item.label for item in items}) == 1
    for number in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
        best = index.search(ROWS[number], 3)[0]
        assert (best.view, best.label, best.similarity > 0.98) == (f"{number}.jpg", items[0].label, True)
    return step


def main(folder: str, swaps: str) -> None:
    os.fsync = lambda handle: None
    index_file.LARGE = 0
    path = Path(folder) / "shop.usearch"
    new_index(path)
    done = mmap.mmap(-1, 8)
    first = Index.open(path)
    kept = [first]
    writer = os.fork()
    if not writer:
        replace(path, int(swaps), done)
        os._exit(0)
    opened, running = 0, True
    while running:
        running = os.waitpid(writer, os.WNOHANG) == (0, 0)
        (least,) = struct.unpack("<Q", done[:8])
        index = Index.open(path)
        check(index, least)
        opened += 1
        # some stay mapped long after their file was replaced
        kept = [*kept[-9:], index]
        check(kept[opened % len(kept)], 0)
        check(first, 0)
    assert check(Index.open(path), int(swaps)) == int(swaps)
    sys.stdout.write(json.dumps({"opened": opened}))


if __name__ == "__main__":
    main(*sys.argv[1:])
