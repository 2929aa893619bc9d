"""Damages index files and journals in some thousand ways and opens each: refused with exit code 8, and nothing else.

Run as a program, because a damaged file that reaches usearch kills the process.
"""

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import IndexFileError
from deepir.runtime.codes import DTYPES, Dtype
from deepir.runtime.index import Index
from deepir.runtime.index_file import read_index
from deepir.runtime.index_whitening import fit_index_whitening
from deepir.runtime.journal import journal_of
from deepir.spec import ModelSpec

DIM = 16
BLOCK = 512
TRAILER = 48

Damage = tuple[str, bytes]


def descriptors(rng: np.random.Generator, count: int, dim: int = DIM) -> NDArray[np.float32]:
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def new_index(path: Path, dtype: Dtype, seed: int = 0, *, dim: int = DIM, whitened: bool = False) -> None:
    """An index of 40 views; another seed is another model."""
    rng = np.random.default_rng(seed)
    model = path.with_name("model.onnx")
    model.write_bytes(b"only its hash matters")
    spec = ModelSpec(
        backbone="test:none",
        sizes=((32, 32),),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        stride=1,
        channels=dim,
        dim=dim,
        weights=str(seed),
    )
    index = Index.create(ModelCard(spec), model, dtype=dtype)
    if whitened:
        index.whiten(fit_index_whitening([descriptors(rng, 60, dim)], 0.25, dim // 2))
    for label in range(10):
        sources = [f"{label}/{view}.jpg" for view in range(4)]
        metadata = [{"price": view} for view in range(4)]
        index.add(f"brand/{label}", descriptors(rng, 4, dim), sources, metadata=metadata)
    index.save(path)


def flips(content: bytes, rng: random.Random, count: int) -> Iterator[Damage]:
    for _ in range(count):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield "flip", bytes(changed)


def runs(content: bytes, rng: random.Random, count: int) -> Iterator[Damage]:
    for _ in range(count):
        start, length = rng.randrange(len(content)), rng.randint(1, 200)
        yield "run", content[:start] + rng.randbytes(length)[: len(content) - start] + content[start + length :]
        start -= start % BLOCK
        yield "zeroed block", content[:start] + bytes(len(content[start : start + BLOCK])) + content[start + BLOCK :]


def cuts(content: bytes, borders: list[int], rng: random.Random, count: int) -> Iterator[Damage]:
    near = [border + step for border in borders for step in range(-3, 4)]
    for length in {*range(72), *near, *range(len(content) - 60, len(content)), *rng.sample(range(len(content)), count)}:
        if 0 <= length < len(content):
            yield "cut", content[:length]


def lengthened(content: bytes, rng: random.Random, count: int) -> Iterator[Damage]:
    for _ in range(count):
        size = rng.randint(1, 99)
        more = rng.choice([b"\n", bytes(size), rng.randbytes(size), content[-TRAILER:], content])
        yield "lengthened", rng.choice([content + more, more + content])


def splices(one: bytes, other: bytes, borders: list[int], rng: random.Random, count: int) -> Iterator[Damage]:
    for _ in range(count):
        here = rng.choice([rng.randrange(1, len(one)), rng.choice(borders)])
        there = rng.choice([here, rng.randrange(len(other)), rng.choice(borders)])
        yield "splice", one[:here] + other[there:]


def borders_of(path: Path) -> list[int]:
    """Where the parts of a file begin: the head of usearch, its end, the sections, the footer, the trailer."""
    opened, content = read_index(path), path.read_bytes()
    rows, width = np.frombuffer(content[:8], np.uint32).tolist()
    places = [8, 8 + rows * width, 8 + rows * width + 42, 8 + rows * width + 64, len(opened.usearch)]
    for size in opened.sections.values():
        places.append(places[-1] + len(size))
    return [*places, len(content) - TRAILER, len(content) - 40, len(content) - 8]


def damaged_files(folder: Path, dtype: Dtype, rng: random.Random) -> Iterator[Damage]:
    """A file in many states, and put together with the generation after it and with one of another model."""
    path = folder / "whole.usearch"
    new_index(path, dtype, whitened=dtype == "f32")
    content, borders = path.read_bytes(), borders_of(path)
    with Index.open(path, write=True) as index:
        index.set(margin=0.3)
        index.save()
    later = path.read_bytes()
    new_index(path, dtype, 1, whitened=dtype == "f32")
    foreign = path.read_bytes()
    yield from flips(content, rng, 200)
    yield from runs(content, rng, 70)
    yield from cuts(content, borders, rng, 100)
    yield from lengthened(content, rng, 20)
    for one, other in ((content, later), (later, content), (content, foreign), (foreign, content)):
        for kind, splice in splices(one, other, borders, rng, 40):
            if splice not in (content, later, foreign):
                yield kind, splice


def refused(path: Path) -> bool:
    """Whether an index is refused, in one sentence and with the right exit code."""
    try:
        Index.open(path)
    except IndexFileError as error:
        return error.exit_code == 8 and "\n" not in str(error)
    return False


def write(path: Path, content: bytes) -> None:
    # over a file that is there, some file systems wait for the disk
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def damage_files(folder: Path, rng: random.Random) -> Counter[str]:
    counts: Counter[str] = Counter()
    path = folder / "damaged.usearch"
    for dtype in DTYPES:
        for kind, content in damaged_files(folder, dtype, rng):
            write(path, content)
            assert refused(path), f"a {kind} of {dtype} was believed"
            counts[kind] += 1
    return counts


def journalled(path: Path) -> tuple[list[bytes], list[int]]:
    """Change an index six times; the journal after each change, and how many views there were."""
    journals, counts = [], []
    rng = np.random.default_rng(5)
    with Index.open(path, write=True) as index:
        for number in range(6):
            if number % 3 == 2:
                index.remove(f"brand/{number}")
            else:
                index.add(f"brand/{number}", descriptors(rng, 2), ["a.jpg", "b.jpg"])
            journals.append(journal_of(path).read_bytes())
            counts.append(len(index))
    return journals, counts


def damage_journals(folder: Path, rng: random.Random) -> Counter[str]:
    counts: Counter[str] = Counter()
    path = folder / "shop.usearch"
    for dtype in DTYPES:
        new_index(path, dtype)
        journals, views = journalled(path)
        whole, ends = journals[-1], [len(journal) for journal in journals]
        damages = [*flips(whole, rng, 250), *runs(whole, rng, 40)]
        damages += [("lengthened", whole + rng.randbytes(rng.randint(1, 60)).lstrip(b"\0") + b"x") for _ in range(20)]
        damages += [("cut", whole[:length]) for length in range(41, len(whole)) if length not in ends]
        # one record left out, doubled, or before another
        starts = [40, *ends]
        records = [whole[start:end] for start, end in zip(starts, ends, strict=False)]
        for order in ((0, 2, 3, 4, 5), (0, 1, 1, 2, 3, 4, 5), (1, 0, 2, 3, 4, 5), (0, 1, 2, 3, 5, 4), (1,)):
            damages.append(("order", whole[:40] + b"".join(records[place] for place in order)))
        for kind, content in damages:
            if content == whole:
                continue
            write(journal_of(path), content)
            assert refused(path), f"a journal with a {kind} was believed"
            counts[kind] += 1
        for journal, count in zip(journals, views, strict=True):
            for tail in (b"", bytes(7), bytes(5000)):
                write(journal_of(path), journal + tail)
                assert len(Index.open(path)) == count
        journal_of(path).unlink()
    return counts


def main(folder: str, what: str, seed: str) -> None:
    os.fsync = lambda handle: None
    damage = damage_files if what == "files" else damage_journals
    sys.stdout.write(json.dumps(damage(Path(folder), random.Random(int(seed)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
