"""Revisited Oxford and Paris: three difficulties out of one file, and what is refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.datasets import read_retrieval_sets
from deepir.errors import InputError

NAMES = [f"place_{number:06d}" for number in range(8)]


def entry(**changes: Any) -> dict[str, Any]:
    return {"easy": [0, 1], "hard": [2], "junk": [3], "bbx": [1.5, 2, 30, 40.5], **changes}


def truth(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    queries = list(entries) or [entry(), entry(easy=[4], hard=[]), entry(easy=[], hard=[5])]
    return {"imlist": NAMES, "qimlist": [f"query_{n}" for n in range(len(queries))], "gnd": queries, **changes}


def write(folder: Path, content: Any, *, name: str = "gnd_roxford5k.pkl", protocol: int = 4) -> Path:
    (folder / "jpg").mkdir(exist_ok=True)
    for picture in (*NAMES, "query_0", "query_1", "query_2"):
        (folder / "jpg" / f"{picture}.jpg").touch()
    (folder / name).write_bytes(pickle.dumps(content, protocol))
    return folder


def numbers(paths: frozenset[Path]) -> set[int]:
    return {int(path.stem.removeprefix("place_")) for path in paths}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("by_folder", [True, False])
def test_each_difficulty_has_its_own_positives_and_junk(by_folder: bool, protocol: int, tmp_path: Path) -> None:
    write(tmp_path, truth(), protocol=protocol)
    sets = read_retrieval_sets(tmp_path if by_folder else tmp_path / "gnd_roxford5k.pkl")
    assert list(sets) == ["roxford5k easy", "roxford5k medium", "roxford5k hard"]
    first = [one.queries[0] for one in sets.values()]
    assert [numbers(query.positives) for query in first] == [{0, 1}, {0, 1, 2}, {2}]
    assert [numbers(query.junk) for query in first] == [{2, 3}, {3}, {0, 1, 3}]
    assert all(query.box == (1.5, 2, 30, 40.5) for query in first)
    assert {query.image for query in first} == {tmp_path / "jpg/query_0.jpg"}
    assert all([path.stem for path in one.database] == NAMES for one in sets.values())


def test_queries_without_positives_are_left_out_of_their_difficulty_and_counted(tmp_path: Path) -> None:
    sets = read_retrieval_sets(write(tmp_path, truth()))
    kept = {name.split()[1]: ([query.key for query in one.queries], one.left_out) for name, one in sets.items()}
    assert kept == {
        "easy": (["query_0", "query_1"], 1),
        "medium": (["query_0", "query_1", "query_2"], 0),
        "hard": (["query_0", "query_2"], 1),
    }


def test_each_set_says_what_counts_and_what_does_not(tmp_path: Path) -> None:
    sets = read_retrieval_sets(write(tmp_path, truth()))
    assert sets["roxford5k hard"].protocol.startswith("hard are positives, junk and easy take no rank")


def test_numpy_arrays_stand_for_lists(tmp_path: Path) -> None:
    arrays = entry(
        easy=np.array([0, 1]), hard=[np.int64(2)], junk=np.array([3], np.uint16), bbx=np.array([1.5, 2, 30, 40.5])
    )
    plain = read_retrieval_sets(write(tmp_path, truth(entry())))
    assert read_retrieval_sets(write(tmp_path, truth(arrays, imlist=np.array(NAMES)))) == plain


def test_both_benchmarks_may_lie_together(tmp_path: Path) -> None:
    write(write(tmp_path, truth()), truth(entry()), name="gnd_rparis6k.pkl")
    assert [name for name in read_retrieval_sets(tmp_path) if name.endswith("hard")] == [
        "roxford5k hard",
        "rparis6k hard",
    ]


def test_the_original_benchmark_in_this_form_is_one_set(tmp_path: Path) -> None:
    content = truth({"ok": [0, 1], "junk": [2], "bbx": [0, 0, 5, 5]}, qimlist=[NAMES[0]])
    sets = read_retrieval_sets(write(tmp_path, content, name="gnd_oxford5k.pkl"))
    (query,) = sets["oxford5k"].queries
    assert (numbers(query.positives), numbers(query.junk), query.image.stem) == ({0, 1}, {2}, NAMES[0])


def test_missing_pictures_are_refused_with_their_number_and_the_first(tmp_path: Path) -> None:
    write(tmp_path, truth())
    for name in ("place_000002", "place_000006", "query_0"):
        (tmp_path / f"jpg/{name}.jpg").unlink()
    with pytest.raises(InputError, match=r"3 of the 10 pictures of roxford5k easy are missing, .*place_000002.jpg"):
        read_retrieval_sets(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "TypeError"),
        ([], "TypeError"),
        ({}, "KeyError 'imlist'"),
        (truth(imlist=3), "TypeError"),
        (truth(imlist=[3]), "a int stands where the name of a picture should"),
        (truth(qimlist=["query_0"]), "1 names in qimlist and 3 queries in gnd"),
        (truth(gnd=[1, 2, 3]), "TypeError"),
        (truth(gnd=["ok", "ok", "ok"]), "TypeError"),
        (truth({"easy": [0]}), "KeyError 'junk'"),
        (truth(entry(easy=[8])), "row 8 of a database of 8 pictures"),
        (truth(entry(easy=[-1])), "row -1 of a database of 8 pictures"),
        (truth(entry(easy=[0.5])), "TypeError"),
        (truth(entry(easy=["0"])), "TypeError"),
        (truth(entry(easy=3)), "TypeError"),
        (truth(entry(bbx=None)), "TypeError"),
    ],
)
def test_foreign_content_is_refused_with_the_file(content: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"gnd_roxford5k.pkl is not ground truth .*{sentence}"):
        read_retrieval_sets(write(tmp_path, content))


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "x"], [1, 2, 1, 5], [0, 0, float("inf"), 1], [{}] * 4])
def test_a_box_that_is_none_is_refused_with_its_query(box: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gnd_roxford5k.pkl: query_0: a box needs"):
        read_retrieval_sets(write(tmp_path, truth(entry(bbx=box))))


def test_a_picture_twice_in_the_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names .*place_000000.jpg 2 times"):
        read_retrieval_sets(write(tmp_path, truth(entry(), imlist=[*NAMES, NAMES[0]])))


def test_a_file_without_queries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no queries to score: none of 0"):
        read_retrieval_sets(write(tmp_path, truth(gnd=[], qimlist=[])))


def test_a_hostile_file_is_refused_by_what_it_asks_for(tmp_path: Path) -> None:
    write(tmp_path, truth())
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"gnd_roxford5k.pkl asks for os.system"):
        read_retrieval_sets(tmp_path)


def test_a_folder_without_ground_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ground truth in .*gnd_\*.pkl"):
        read_retrieval_sets(tmp_path, "revisited")
