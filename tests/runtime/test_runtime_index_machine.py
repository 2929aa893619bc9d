"""Anything that can be done to an index, in any order, against a dictionary and numpy."""

import contextlib
import gc
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from deepir.card import ModelCard
from deepir.errors import InputError
from deepir.runtime import index_contents, index_file, store
from deepir.runtime.codes import DTYPES, Dtype
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of
from deepir.runtime.items import Item
from deepir.runtime.threshold import Threshold
from deepir.spec import ModelSpec

DIM = 12
ROWS = np.random.default_rng(3).normal(size=(256, DIM)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)

TOLERANCE: dict[Dtype, float] = {"i8": 0.03, "f16": 2e-3, "f32": 1e-5, "b1": 0.03}
"""Of a similarity, through the codes."""

LABELS = ["a", "a/b", "a/b/c", "ab", "d/e", "d/f", "größe/kühl"]
BRANCHES = ["a/", "a/b/", "d/"]
METADATA: list[dict[str, Any]] = [{}, {"price": 1.5}, {"pose": [1, 2], "name": "größer\n\0"}]

EXAMPLES = 8
STEPS = 30


class Anything(RuleBasedStateMachine):
    """An index and what it must hold."""

    dtype: Dtype = "i8"

    @initialize()
    def create(self) -> None:
        self.folder = contextlib.ExitStack()
        folder = Path(self.folder.enter_context(tempfile.TemporaryDirectory()))
        (folder / "model.onnx").write_bytes(b"only its hash matters")
        size: dict[str, Any] = {"sizes": ((32, 32),), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "stride": 1}
        card = ModelCard(ModelSpec(backbone="test:none", channels=DIM, dim=DIM, weights="a", **size))
        self.path = folder / "shop.usearch"
        self.index = Index.create(card, folder / "model.onnx", dtype=self.dtype)
        self.index.save(self.path)
        self.views: dict[int, Item] = {}
        self.rows: dict[int, int] = {}
        self.past: dict[int, Item] | None = None
        self.numbers = itertools.count(1)
        self.margin = self.index.margin
        self.threshold: Threshold | None = None
        self.open_again()

    def open_again(self) -> None:
        self.index.close()
        self.index = Index.open(self.path, write=True, wait=0)

    def holding(self, what: str) -> list[int]:
        branch = what.rstrip("/")
        return [
            key
            for key, item in self.views.items()
            if item.label == branch or (what.endswith("/") and item.label.startswith(what))
        ]

    @rule(
        label=st.sampled_from(LABELS),
        rows=st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=5),
        entry=st.sampled_from(METADATA),
    )
    def add(self, label: str, rows: list[int], entry: dict[str, Any]) -> None:
        sources = [f"folder/{row}.jpg" for row in rows]
        keys = self.index.add(label, ROWS[rows], sources, metadata=[entry] * len(rows))
        assert keys == [next(self.numbers) for _ in rows]
        for key, row, source in zip(keys, rows, sources, strict=True):
            self.views[key] = Item(key, label, source, entry)
            self.rows[key] = row

    def forget(self, keys: list[int]) -> None:
        for key in keys:
            del self.views[key]

    @rule(what=st.sampled_from([*LABELS, *BRANCHES]))
    def remove(self, what: str) -> None:
        keys = self.holding(what)
        if not keys:
            with pytest.raises(InputError, match="no label"):
                self.index.remove(what)
            return
        assert self.index.remove(what) == len(keys)
        self.forget(keys)

    @precondition(lambda self: self.views)
    @rule(places=st.sets(st.integers(0, 30), min_size=1, max_size=3))
    def remove_keys(self, places: set[int]) -> None:
        keys = sorted({sorted(self.views)[place % len(self.views)] for place in places})
        assert self.index.remove(keys) == len(keys)
        self.forget(keys)

    @rule(what=st.sampled_from([*LABELS, *BRANCHES]), label=st.sampled_from(LABELS))
    def relabel(self, what: str, label: str) -> None:
        keys = self.holding(what)
        new = label + "/" * what.endswith("/")
        if not keys:
            with pytest.raises(InputError, match="no label"):
                self.index.relabel(what, new)
            return
        assert self.index.relabel(what, new) == len(keys)
        for key in keys:
            item = self.views[key]
            name = label + item.label[len(what.rstrip("/")) :]
            self.views[key] = Item(key, name, item.source, item.metadata)

    @rule(margin=st.floats(0, 1), value=st.none() | st.floats(-1, 1))
    def judge(self, margin: float, value: float | None) -> None:
        threshold = None if value is None else Threshold(value, 0.01, 3, "unknown")
        self.index.set(margin=margin, threshold=threshold)
        self.margin, self.threshold = margin, threshold or self.threshold

    @rule()
    def save(self) -> None:
        generation = self.index.generation
        self.index.save()
        self.past = dict(self.views)
        assert (self.index.generation, self.index.pending) == (generation + 1, 0)

    @rule()
    def compact(self) -> None:
        self.index.compact()
        self.past = None
        assert not backup_of(self.path).exists()
        assert self.index.footer.removed == 0

    @rule()
    def close_and_open(self) -> None:
        self.open_again()

    @rule()
    def crash(self) -> None:
        # the program ends without a word: what it held goes, what it was told is done stays
        del self.index
        gc.collect()
        self.index = Index.open(self.path, write=True, wait=0)

    @rule()
    def look_at_the_generation_before(self) -> None:
        if self.past is not None:
            assert list(Index.open(backup_of(self.path)).items()) == [self.past[key] for key in sorted(self.past)]

    @rule(query=st.integers(0, len(ROWS) - 1), count=st.integers(1, 60), mapped=st.booleans())
    def search(self, query: int, count: int, mapped: bool) -> None:
        for index in (self.index, self.reader(mapped)):
            self.compare(index, ROWS[query], count)

    def reader(self, mapped: bool) -> Index:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index_file, "LARGE", 0 if mapped else 1 << 30)
            return Index.open(self.path)

    def compare(self, index: Index, query_1d: np.ndarray[Any, Any], count: int) -> None:
        """The best similarities are those of numpy, and each hit is what it says it is."""
        tolerance = TOLERANCE[self.dtype]
        similarity = {key: float(ROWS[self.rows[key]] @ query_1d) for key in self.views}
        best = sorted(similarity.values(), reverse=True)[:count]
        hits = index.search(query_1d, count)
        np.testing.assert_allclose([hit.similarity for hit in hits], best, atol=tolerance)
        assert len({hit.key for hit in hits}) == len(hits)
        for hit in hits:
            item = self.views[hit.key]
            assert (hit.label, hit.view, hit.metadata) == (item.label, item.view, item.metadata)
            assert abs(hit.similarity - similarity[hit.key]) <= tolerance
        labels = [hit.label for hit in index.search_labels(query_1d, 3)]
        assert len(set(labels)) == len(labels) == min(3, len({item.label for item in self.views.values()}))

    @invariant()
    def it_holds_what_the_dictionary_holds(self) -> None:
        for index in (self.index, Index.open(self.path)):
            assert list(index.items()) == [self.views[key] for key in sorted(self.views)]
            assert index.newest_key == len(self.rows)
            assert index.margin == self.margin
            if self.threshold is not None:
                assert index.threshold == self.threshold
            rows_nd = ROWS[[self.rows[key] for key in sorted(self.views)]]
            np.testing.assert_allclose(index.descriptors(), rows_nd, atol=TOLERANCE[self.dtype])
        assert index.threshold == self.index.threshold

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.index.close()
            self.folder.close()


@pytest.fixture
def large_ones_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small indexes are searched along their graph, and it is not made anew when something was removed."""
    monkeypatch.setattr(index_contents, "_CHEAP", 0)
    monkeypatch.setattr(store, "_MOST_EXACT", 0)


def run(dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    machine = type("Machine", (Anything,), {"dtype": dtype})
    bounds = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=bounds)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_index_is_a_dictionary_that_survives_everything(dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    run(dtype, monkeypatch)


@pytest.mark.parametrize("dtype", ["i8", "b1"])
def test_so_is_one_that_is_searched_along_its_graph(
    dtype: Dtype, large_ones_ways: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dtype, monkeypatch)
