"""Kills writers of an index with SIGKILL, at random moments or at each system call, and compares what is left.

Run as a program: it loads the library once and forks a writer for each kill. A writer says in a log what it is about to
do and what it has been told is done; after the kill the index must be in one of these two states, whole.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deepir.card import ModelCard
from deepir.errors import InputError
from deepir.runtime import index_file
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of
from deepir.spec import ModelSpec

DIM = 16
ROWS = np.random.default_rng(0).normal(size=(512, DIM)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
TOLERANCE = {"i8": 0.03, "f16": 2e-3, "f32": 1e-6, "b1": 0.03}
LABELS = [f"brand{brand}/product{product}" for brand in range(3) for product in range(3)]

Views = dict[int, list[Any]]
"""The reference: from each key to its label, source and metadata; key 0 holds the margin and the next key."""

Step = Callable[[Index, Views], None]


def empty() -> Views:
    return {0: [0.02, 1]}


def add(index: Index, views: Views, label: str, count: int) -> Callable[[], object]:
    first = views[0][1]
    keys = range(first, first + count)
    sources = [f"folder/{key}.jpg" for key in keys]
    metadata = [{"price": key} if key % 2 else {} for key in keys]
    views.update({key: [label, sources[row], metadata[row]] for row, key in enumerate(keys)})
    views[0][1] += count
    rows_nd = ROWS[[key % len(ROWS) for key in keys]]
    return lambda: index.add(label, rows_nd, sources, metadata=metadata)


def remove(index: Index, views: Views, what: str | list[int]) -> Callable[[], object]:
    for key in holding(views, what):
        del views[key]
    return lambda: index.remove(what)


def relabel(index: Index, views: Views, what: str, label: str) -> Callable[[], object]:
    for key in holding(views, what):
        views[key][0] = label.rstrip("/") + views[key][0].removeprefix(what.rstrip("/"))
    return lambda: index.relabel(what, label)


def judge(index: Index, views: Views, margin: float) -> Callable[[], object]:
    views[0][0] = margin
    return lambda: index.set(margin=margin)


def holding(views: Views, what: str | list[int]) -> list[int]:
    if isinstance(what, list):
        return what
    branch = what.rstrip("/")
    below = [key for key, view in views.items() if key and str(view[0]).startswith(f"{branch}/")]
    return [key for key, view in views.items() if key and view[0] == branch] + (below if what.endswith("/") else [])


def state_of(index: Index) -> Views:
    """What an index says it holds; the descriptors are compared here with those that were added."""
    views: Views = {item.key: [item.label, item.source, dict(item.metadata)] for item in index.items()}
    keys = sorted(views)
    expected_nd = ROWS[[key % len(ROWS) for key in keys]] if keys else np.empty((0, DIM), np.float32)
    np.testing.assert_allclose(index.descriptors(), expected_nd, atol=TOLERANCE[index.footer.codes.dtype])
    for key in keys[:3]:
        assert key in {hit.key for hit in index.search(ROWS[key % len(ROWS)], len(keys))[:2]}, f"key {key} is not found"
    return {0: [index.margin, index.newest_key + 1], **views}


def new_index(path: Path, dtype: Any = "f32") -> Views:
    """A first generation with two labels."""
    model = path.with_name("model.onnx")
    model.write_bytes(b"only its hash matters")
    spec = ModelSpec(
        backbone="test:none",
        sizes=((32, 32),),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        stride=1,
        channels=DIM,
        dim=DIM,
        weights="a",
    )
    views = empty()
    index = Index.create(ModelCard(spec), model, dtype=dtype)
    for label in LABELS[:2]:
        add(index, views, label, 2)()
    index.save(path)
    return views


def changes(index: Index, views: Views, rng: random.Random) -> Callable[[], object]:
    """Any change, carried out on the reference; call what comes back to carry it out on the index."""
    labels = sorted({view[0] for key, view in views.items() if key}) or LABELS
    branch = rng.choice(labels).split("/")[0] + "/"
    kinds = ["add"] * 5 + ["save"] * 3 + ["remove", "branch", "keys", "relabel", "move", "judge", "compact"]
    made: dict[str, Callable[[], Callable[[], object]]] = {
        "add": lambda: add(index, views, rng.choice(LABELS), rng.randint(1, 3)),
        "remove": lambda: remove(index, views, rng.choice(labels)),
        "branch": lambda: remove(index, views, branch),
        "keys": lambda: remove(index, views, [rng.choice([key for key in views if key])]),
        "relabel": lambda: relabel(index, views, rng.choice(labels), rng.choice(LABELS)),
        "move": lambda: relabel(index, views, branch, f"brand{rng.randint(0, 4)}/"),
        "judge": lambda: judge(index, views, rng.randint(0, 99) / 100),
        "save": lambda: index.save,
        "compact": lambda: index.compact,
    }
    return made[rng.choice(kinds) if len(views) > 12 else "add"]()


def copied(views: Views) -> Views:
    return {key: list(view) for key, view in views.items()}


def write_until_killed(path: Path, views: Views, log: Path, seed: int) -> None:
    """Change the index for ever, and say in the log what begins and what is done."""
    rng = random.Random(seed)
    stream = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    index = Index.open(path, write=True)
    while True:
        before = copied(views)
        change = changes(index, views, rng)
        os.write(stream, json.dumps(["begin", list(views.items())]).encode() + b"\n")
        try:
            change()
        except InputError as error:
            # a branch moved onto itself and the like: nothing happened
            views = before
            os.write(stream, json.dumps(["refused", str(error), list(views.items())]).encode() + b"\n")
        else:
            os.write(stream, json.dumps(["done", list(views.items())]).encode() + b"\n")


def states_in(log: Path, views: Views) -> tuple[Views, Views | None, int]:
    """What was acknowledged last, what had begun and was not acknowledged, and how many were acknowledged."""
    done, begun, count = views, None, 0
    for line in log.read_bytes().split(b"\n")[:-1]:
        word, *_, state = json.loads(line)
        begun = None
        if word == "begin":
            begun = dict(map(tuple, state))
        else:
            done, count = dict(map(tuple, state)), count + (word == "done")
    return done, begun, count


def kill_at_random(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """A loop of writers that are killed; each goes on where the one before was killed."""
    rng = random.Random(seed)
    if seed % 2:
        # much more happens before the kill where nobody waits for the disk
        os.fsync = lambda handle: None
    path, log = folder / "shop.usearch", folder / "log"
    facts: dict[str, Any] = {"kills": 0, "acknowledged": 0, "under_way": 0, "under_way_and_kept": 0}
    views = new_index(path, rng.choice(list(TOLERANCE)))
    for _ in range(kills):
        kill(path, views, log, rng)
        done, begun, count = states_in(log, views)
        views = state_of(Index.open(path))
        assert views in (done, begun), f"expected {done} or {begun}, got {views}"
        facts["kills"] += 1
        facts["acknowledged"] += count
        facts["under_way"] += begun not in (None, done)
        facts["under_way_and_kept"] += views == begun != done
        with Index.open(path, write=True) as index:
            assert state_of(index) == views
            if len(views) > 200:
                remove(index, views, [key for key in views if key][:150])()
    with Index.open(path, write=True) as index:
        index.save()
    return {**facts, "left": sorted(file.name for file in folder.iterdir())}


def kill(path: Path, views: Views, log: Path, rng: random.Random) -> None:
    """Start a writer and kill it, most often when it has begun to change something."""
    log.write_bytes(b"")
    writer = os.fork()
    if not writer:
        write_until_killed(path, views, log, rng.randrange(1 << 30))
    while rng.random() > 0.1 and not log.stat().st_size:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.04))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)


STEPS: dict[str, Step] = {
    "add": lambda index, views: add(index, views, LABELS[4], 3)() and None,
    "remove": lambda index, views: remove(index, views, LABELS[0])() and None,
    "relabel": lambda index, views: relabel(index, views, "brand0/", "brand7/")() and None,
    "judge": lambda index, views: judge(index, views, 0.5)() and None,
    "save": lambda index, views: index.save(),
    "compact": lambda index, views: index.compact(),
}

LIVES: dict[str, list[str]] = {
    "the first change": ["add"],
    "a change after others": ["add", "remove", "relabel"],
    "a setting": ["judge"],
    "a save without changes": ["save"],
    "a save": ["add", "remove", "save"],
    "a change after a save": ["add", "save", "relabel"],
    "a save after a save": ["add", "save", "relabel", "save"],
    "a compaction": ["remove", "save", "add", "compact"],
}
"""What happens to an index; the writer is killed in the last step of each."""

CALLS = ("open", "pwrite", "ftruncate", "fsync", "replace", "link", "unlink")


@contextmanager
def killing_at(number: int, *, half: bool) -> Iterator[list[str]]:
    """Let the process die before the call of this number to the system; a write is half done where `half`."""
    calls: list[str] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == number + 1:
                if half and name == "pwrite":
                    call(words[0], bytes(words[1])[: len(words[1]) // 2], words[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*words, **options)

        return counted

    places = [(os, name) for name in CALLS] + [(index_file._TreeHash, "update")]
    kept = [(place, name, getattr(place, name)) for place, name in places]
    for place, name, call in kept:
        setattr(place, name, wrapped(name, call))
    try:
        yield calls
    finally:
        for place, name, call in kept:
            setattr(place, name, call)


def live(path: Path, steps: list[str], views: Views, number: int = -1, *, half: bool = False) -> list[str]:
    """Open for writing and take the steps, the last of them with a death at one call; give the calls that it made."""
    with Index.open(path, write=True) as index:
        for step in steps[:-1]:
            STEPS[step](index, views)
        with killing_at(number, half=half) as calls:
            STEPS[steps[-1]](index, views)
    return calls


def outcomes(steps: list[str], views: Views) -> tuple[Views, Views]:
    """The reference before and after the last step."""

    class Nothing:
        def __getattr__(self, name: str) -> Callable[..., bool]:
            return lambda *words, **options: True

    before = views
    for step in steps:
        before, views = copied(views), copied(views)
        STEPS[step](Nothing(), views)  # type: ignore[arg-type] it is only asked to do nothing
    return before, views


def kill_at_each_call(folder: Path) -> dict[str, Any]:
    """Each life with a death before each call of its last step, and in the middle of each write."""
    # a process that dies takes nothing along that it has given to the system, flushed or not
    os.fsync = lambda handle: None
    facts: dict[str, Any] = {}
    for life, steps in LIVES.items():
        whole = folder / life
        whole.mkdir()
        calls = live(whole / "shop.usearch", steps, new_index(whole / "shop.usearch"))
        deaths = [(number, half) for number, call in enumerate(calls) for half in {False, call == "pwrite"}]
        for number, half in deaths:
            die(folder / f"{number} {half} {life}", steps, number, half=half)
        facts[life] = len(deaths)
    return facts


def die(folder: Path, steps: list[str], number: int, *, half: bool) -> None:
    """One death, and what it left."""
    folder.mkdir()
    path = folder / "shop.usearch"
    start = new_index(path)
    before, after = outcomes(steps, start)
    writer = os.fork()
    if not writer:
        live(path, steps, copied(start), number, half=half)
        os._exit(0)
    _, status = os.waitpid(writer, 0)
    assert status == signal.SIGKILL, f"the writer ended with {status}"
    found = state_of(Index.open(path))
    assert found in (before, after), f"expected {before} or {after}, got {found}"
    if backup_of(path).exists():
        past = [outcomes(steps[:length], start)[1] for length in range(len(steps) + 1)]
        assert state_of(Index.open(backup_of(path))) in [start, *past]
    with Index.open(path, write=True) as index:
        assert state_of(index) == found
        add(index, found, LABELS[8], 1)()
    assert state_of(Index.open(path)) == found
    with Index.open(path, write=True) as index:
        index.save()
    assert state_of(Index.open(path)) == found
    assert state_of(Index.open(backup_of(path))) == found
    left = {file.name for file in folder.iterdir()} - {"model.onnx", ".shop.usearch.lock"}
    assert left <= {"shop.usearch", "shop.usearch.bak", "shop.usearch.bak.journal"}, left


def main(folder: str, kills: str = "0", seed: str = "0") -> None:
    facts = kill_at_random(Path(folder), int(kills), int(seed)) if int(kills) else kill_at_each_call(Path(folder))
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
