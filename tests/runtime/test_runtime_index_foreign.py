"""usearch files that deepir did not write: read, never changed, refused where they are damaged or of another kind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from usearch.index import Index as PlainIndex

from deepir.card import ModelCard
from deepir.errors import IndexFileError, OptionError
from deepir.runtime import index_foreign
from deepir.runtime.index import Index
from deepir.runtime.index_file import file_bytes
from deepir.runtime.index_items_cli import ls_command

Rows = Callable[..., NDArray[np.float32]]

DIM = 16
COUNT = 40
FLIPS = 10


@pytest.fixture
def rows_nd(rng: np.random.Generator, unit_rows: Rows) -> NDArray[np.float32]:
    return unit_rows(rng, COUNT, DIM)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plain.usearch"


def write_plain(path: Path, rows: NDArray[Any], keys: NDArray[Any] | None = None, **options: Any) -> None:
    """A file as usearch writes it; f32 by cosine where nothing else is said."""
    index = PlainIndex(**{"ndim": DIM, "metric": "cos", "dtype": "f32", **options})
    index.add(np.arange(1, len(rows) + 1) if keys is None else keys, rows)
    index.save(str(path))


def reason(path: Path) -> str:
    """Why a file is refused: between the name of the file and the cure."""
    with pytest.raises(IndexFileError) as info:
        Index.open(path)
    assert info.value.exit_code == 8
    sentence = str(info.value)
    assert "\n" not in sentence
    return sentence.removeprefix(f"{path} ({path.stat().st_size} bytes) is not a usable index: ").rsplit(";", 1)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-6), ("f16", 2e-3), ("i8", 0.03)])
@pytest.mark.parametrize("metric", ["cos", "ip"])
def test_a_file_of_usearch_is_read_and_searched(
    dtype: str, tolerance: float, metric: str, path: Path, rows_nd: NDArray[np.float32]
) -> None:
    write_plain(path, rows_nd, np.arange(COUNT) * 3, dtype=dtype, metric=metric)
    index = Index.open(path)
    assert len(index) == COUNT
    assert list(index.labels) == sorted(f"key {3 * number}" for number in range(COUNT))
    np.testing.assert_allclose(index.descriptors(), rows_nd, atol=tolerance)
    for number in (0, 7, COUNT - 1):
        best = index.search(rows_nd[number], 5)
        assert (best[0].key, best[0].label) == (3 * number, f"key {3 * number}")
        expected = np.sort(rows_nd @ rows_nd[number])[::-1][:5]
        np.testing.assert_allclose([hit.similarity for hit in best], expected, atol=2 * tolerance)


def test_it_says_why_nothing_is_known_of_it(path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, rows_nd)
    index = Index.open(path)
    assert "no deepir footer" in index.foreign
    assert index.model.fingerprint == "unknown"


def test_an_empty_file_of_usearch_is_an_empty_index(path: Path) -> None:
    write_plain(path, np.empty((0, DIM), np.float32))
    assert (len(Index.open(path)), Index.open(path).labels) == (0, {})


def test_it_is_only_read(path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, rows_nd)
    before = path.read_bytes()
    index = Index.open(path)
    for change in (lambda: index.remove("key 1"), index.save, index.compact):
        with pytest.raises(OptionError, match="was opened for reading"):
            change()
    with pytest.raises(IndexFileError, match="deepir-index import"):
        Index.open(path, write=True, wait=0)
    assert path.read_bytes() == before


def test_removed_and_added_vectors_of_usearch_are_read_as_it_holds_them(
    path: Path, rows_nd: NDArray[np.float32]
) -> None:
    plain = PlainIndex(ndim=DIM, metric="cos", dtype="f32")
    plain.add(np.arange(COUNT), rows_nd)
    plain.remove(np.arange(0, 10))
    plain.add(np.arange(100, 105), rows_nd[:5])
    plain.save(str(path))
    index = Index.open(path)
    assert [item.key for item in index.items()] == [*range(10, COUNT), *range(100, 105)]
    assert index.search(rows_nd[3], 1)[0].label == "key 103"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"metric": "l2sq"}, "it compares f32 values by l2sq, and only f32, f16 and i8 by cosine are read"),
        ({"dtype": "f64"}, "it compares f64 values by cos, and only f32, f16 and i8 by cosine are read"),
        ({"dtype": "bf16"}, "it compares bf16 values by cos, and only f32, f16 and i8 by cosine are read"),
        ({"multi": True}, "it allows several vectors for a key"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    options: dict[str, Any], expected: str, path: Path, rows_nd: NDArray[np.float32]
) -> None:
    write_plain(path, rows_nd, **options)
    assert reason(path) == expected


def test_a_file_of_signs_is_refused(path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, np.packbits(rows_nd > 0, axis=1), dtype="b1", metric="hamming")
    assert "by hamming, and only f32, f16 and i8 by cosine are read" in reason(path)


def test_inner_products_of_vectors_of_different_lengths_are_refused(path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, rows_nd * np.linspace(1, 3, COUNT, dtype=np.float32)[:, None], metric="ip")
    assert reason(path) == "it compares by inner product, which is no cosine for lengths of 1 to 3"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float, path: Path, rows_nd: NDArray[np.float32]) -> None:
    rows_nd[3, 4] = value
    write_plain(path, rows_nd)
    assert reason(path) == "it holds NaN or infinity"


def test_a_file_of_an_earlier_deepir_is_refused_as_one(path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, rows_nd)
    path.write_bytes(path.read_bytes() + b'{"schema": "deepir.index/1"}' + bytes(40) + b"DEEPIRX1")
    assert reason(path) == "an earlier version of deepir wrote it, and this one reads only its own form"


@pytest.mark.parametrize("content", [b"", b"x", b"text of some kind\n" * 100, bytes(5000), b"\xff" * 5000])
def test_a_file_that_is_none_of_usearch_is_refused_without_asking_it(
    content: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_foreign, "probe", lambda path: pytest.fail("usearch was asked"))
    path.write_bytes(content)
    assert reason(path) == "it is not a usearch file, or cut short among its vectors"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.9, 0.999])
def test_a_file_of_usearch_that_is_cut_short_is_refused(share: float, path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, rows_nd)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert reason(path)


def test_bytes_behind_those_of_usearch_are_refused(path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, rows_nd)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"more")
    assert reason(path).startswith(f"usearch explains {size} of its bytes")


def graph_of(path: Path) -> int:
    """Where the graph begins in a file of COUNT vectors of f32."""
    return 8 + COUNT * DIM * 4 + 64


FLIPPER = """
import json, sys
import numpy as np
from pathlib import Path
from deepir.errors import IndexFileError
from deepir.runtime.index import Index

path, begin, flips = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
content, rng, counts = path.read_bytes(), np.random.default_rng(5), {"read": 0, "died": 0, "refused": 0}
query = np.eye(16, dtype=np.float32)[0]
for _ in range(flips):
    place, bit = int(rng.integers(begin, len(content))), int(rng.integers(8))
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    try:
        assert len(Index.open(path).search(query, 10)) == 10
        counts["read"] += 1
    except IndexFileError as error:
        assert error.exit_code == 8
        counts["died" if "usearch dies of it" in str(error) else "refused"] += 1
sys.stdout.write(json.dumps(counts))
"""


def test_a_damaged_graph_kills_the_process_that_looks_and_never_the_one_that_asks(
    path: Path, rows_nd: NDArray[np.float32]
) -> None:
    write_plain(path, rows_nd)
    words = [sys.executable, "-c", FLIPPER, str(path), str(graph_of(path)), str(FLIPS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == FLIPS
    assert counts["died"] + counts["refused"] > 0


def test_the_process_that_looks_takes_no_more_memory_than_it_may() -> None:
    code = "from deepir.runtime.index_probe import _limit_memory; _limit_memory(1 << 20); bytearray(1 << 28)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("MemoryError\n")


def test_a_file_that_changes_while_it_is_looked_at_is_refused(
    path: Path, rows_nd: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plain(path, rows_nd)
    probe = index_foreign.probe

    def meanwhile(path: Path) -> dict[str, Any]:
        facts = probe(path)
        path.write_bytes(path.read_bytes()[::-1])
        return {**facts, "sha256": probe.__name__}

    monkeypatch.setattr(index_foreign, "probe", meanwhile)
    assert reason(path) == "another program writes over it at this moment"


def test_a_look_that_takes_too_long_is_given_up(
    path: Path, rows_nd: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plain(path, rows_nd)
    monkeypatch.setattr(index_foreign, "_SECONDS", 0)
    assert reason(path) == "usearch did not finish reading it within 0 seconds"


def test_an_index_of_deepir_without_its_end_is_not_taken_for_a_foreign_one(
    tmp_path: Path, make_card: Callable[..., ModelCard], model: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    index = Index.create(make_card(), model)
    index.add("cup", unit_rows(rng, 3), ["1.jpg", "2.jpg", "3.jpg"])
    path = tmp_path / "shop.usearch"
    index.save(path)
    content, _ = file_bytes(path)
    path.write_bytes(bytes(content[:-1]))
    assert reason(path) == "what deepir wrote behind the descriptors is cut short or damaged"


def test_the_command_refuses_a_damaged_one_with_exit_code_8(path: Path, rows_nd: NDArray[np.float32]) -> None:
    write_plain(path, rows_nd)
    path.write_bytes(path.read_bytes()[: graph_of(path) + 100])
    result = CliRunner().invoke(ls_command, [os.fspath(path)])
    assert result.exit_code == 8, result.output
    assert result.stderr.count("\n") == 1
