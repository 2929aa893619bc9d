"""Searches in several threads while one changes the index, in a process of their own: a crash must show."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepir.card import ModelCard
from deepir.runtime.codes import Dtype
from deepir.runtime.index import Index

MakeCard = Callable[..., ModelCard]

PROGRAM = """
import json, sys, threading
import numpy as np
from deepir.runtime import store
from deepir.runtime.index import Index

path, graph = sys.argv[1:]
if graph == "graph":
    store._MOST_EXACT = 0
LABELS, VIEWS, THREADS = 40, 6, 4
rng = np.random.default_rng(3)
rows_nd = rng.normal(size=(LABELS * VIEWS, 8)).astype(np.float32)
rows_nd /= np.linalg.norm(rows_nd, axis=1, keepdims=True)
index = Index.open(path, write=True)
done, wrong, searches = threading.Event(), [], [0] * THREADS


def check(row):
    # a label is added whole, its views are named by their rows, and it is gone whole
    before = index.labels
    for hit in index.search(rows_nd[row], 7):
        if hit.label != f"label {int(hit.view) // VIEWS}" or hit.metadata != {"row": int(hit.view)}:
            wrong.append(f"view {hit.view} has the label {hit.label} and {hit.metadata}")
        if not abs(hit.similarity - rows_nd[row] @ rows_nd[int(hit.view)]) < 0.05:
            wrong.append(f"view {hit.view} has the similarity {hit.similarity}")
    hits = index.search_labels(rows_nd[row], 5)
    if len({hit.label for hit in hits}) != len(hits):
        wrong.append(f"labels twice: {hits}")
    if any(count != VIEWS for count in before.values()):
        wrong.append(f"half a label: {before}")
    if f"label {row // VIEWS}" in before and not hits:
        wrong.append("nothing found")
    if len(index.descriptors()) % VIEWS:
        wrong.append("half a label")
    index.threshold


def ask(number):
    mine = np.random.default_rng(number)
    while not done.is_set():
        try:
            check(int(mine.integers(len(rows_nd))))
        except BaseException as error:
            wrong.append(repr(error))
            return
        searches[number] += 1


threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for label in range(LABELS):
    rows = range(label * VIEWS, (label + 1) * VIEWS)
    names, metadata = [str(row) for row in rows], [{"row": row} for row in rows]
    index.add(f"label {label}", rows_nd[list(rows)], names, metadata=metadata)
    if label % 4 == 3:
        index.remove(f"label {label - 3}")
    if label % 16 == 15:
        index.save()
# each thread is asked at least once more after the last change
before = list(searches)
while not wrong and any(now < then + 2 for now, then in zip(searches, before)):
    done.wait(0.001)
done.set()
for thread in threads:
    thread.join()
sys.stdout.write(json.dumps({"wrong": wrong[:5], "searches": searches, "labels": index.labels}))
"""


@pytest.mark.parametrize(
    ("dtype", "graph"), [("i8", "exact"), ("i8", "graph"), ("b1", "exact"), ("b1", "graph"), ("f32", "exact")]
)
def test_searches_may_run_while_one_thread_changes_the_index(
    tmp_path: Path, model: Path, make_card: MakeCard, dtype: Dtype, graph: str
) -> None:
    path = tmp_path / "shop.usearch"
    Index.create(make_card(), model, dtype=dtype).save(path)
    words = [sys.executable, "-c", PROGRAM, str(path), graph]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["wrong"] == []
    assert min(facts["searches"]) >= 2
    expected = {f"label {label}": 6 for label in range(40) if label % 4}
    assert facts["labels"] == expected
    opened = Index.open(path)
    assert opened.labels == expected
    assert [item.view for item in opened.items()] == [str(row) for row in range(240) if row // 6 % 4]
