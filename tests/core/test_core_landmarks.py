"""Oxford5k and Paris6k from their text files: positives, junk, boxes, damaged pictures."""

from pathlib import Path

import pytest

from deepir.datasets import RetrievalSet, read_retrieval_sets
from deepir.errors import InputError
from deepir.landmarks import DAMAGED

PICTURES = ("all_souls_000001", "all_souls_000002", "all_souls_000003", "christ_church_000001", "balliol_000001")


def write_query(folder: Path, key: str, query: str, **lists: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{key}_query.txt").write_text(query)
    for kind in ("good", "ok", "junk"):
        (folder / f"{key}_{kind}.txt").write_text("".join(f"{name}\n" for name in lists.get(kind, "").split()))


def touch(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def oxford(folder: Path, *, labels: str = "lab", pictures: str = "jpg") -> Path:
    touch(folder / pictures, PICTURES)
    lists = {"good": "all_souls_000001", "ok": "all_souls_000002", "junk": "balliol_000001"}
    write_query(folder / labels, "all_souls_1", "oxc1_all_souls_000001 136.5 34.1 648.5 955.7", **lists)
    write_query(folder / labels, "christ_church_1", "oxc1_christ_church_000001 0 0 5 5\n", good="christ_church_000001")
    return folder


def paris(folder: Path) -> Path:
    names = ("louvre/paris_louvre_000001", "louvre/paris_louvre_000136", "general/paris_general_000002")
    touch(folder / "jpg", names)
    write_query(folder, "louvre_1", "paris_louvre_000001 1 2 3 4", good="paris_louvre_000001 paris_louvre_000136")
    return folder


def only(sets: dict[str, RetrievalSet], name: str) -> RetrievalSet:
    assert list(sets) == [name]
    return sets[name]


@pytest.mark.parametrize("labels", [".", "lab", "groundtruth"])
@pytest.mark.parametrize("pictures", [".", "jpg", "images"])
def test_the_ground_truth_of_oxford_is_read_wherever_it_usually_lies(
    labels: str, pictures: str, tmp_path: Path
) -> None:
    found = only(read_retrieval_sets(oxford(tmp_path, labels=labels, pictures=pictures)), "oxford5k")
    path = {name: tmp_path / pictures / f"{name}.jpg" for name in PICTURES}
    assert set(found.database) == set(path.values())
    first, second = found.queries
    assert (first.key, first.image, second.key) == ("all_souls_1", path["all_souls_000001"], "christ_church_1")
    assert first.positives == {path["all_souls_000001"], path["all_souls_000002"]}
    assert first.junk == {path["balliol_000001"]}
    assert first.box == (136.5, 34.1, 648.5, 955.7)


def test_the_querys_own_image_is_a_positive_that_is_ranked(tmp_path: Path) -> None:
    found = only(read_retrieval_sets(oxford(tmp_path)), "oxford5k")
    assert all(query.image in query.positives - query.junk for query in found.queries)


def test_a_query_without_good_or_ok_pictures_is_left_out_and_counted(tmp_path: Path) -> None:
    write_query(oxford(tmp_path) / "lab", "balliol_1", "oxc1_balliol_000001 1 1 2 2", junk="all_souls_000001")
    found = only(read_retrieval_sets(tmp_path), "oxford5k")
    assert (len(found.queries), found.left_out) == (2, 1)


def test_paris_lies_in_folders_of_landmarks_and_loses_its_damaged_pictures(tmp_path: Path) -> None:
    found = only(read_retrieval_sets(paris(tmp_path)), "paris6k")
    names = [path.relative_to(tmp_path / "jpg").as_posix() for path in found.database]
    assert names == ["general/paris_general_000002.jpg", "louvre/paris_louvre_000001.jpg"]


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_damaged_picture_of_paris_counts_as_a_positive_that_is_never_found(on_disk: bool, tmp_path: Path) -> None:
    paris(tmp_path)
    if not on_disk:
        (tmp_path / "jpg/louvre/paris_louvre_000136.jpg").unlink()
    found = only(read_retrieval_sets(tmp_path), "paris6k")
    assert len(found.queries[0].positives) == 2
    assert len(found.queries[0].positives - set(found.database)) == 1


def test_twenty_pictures_of_paris_are_damaged() -> None:
    assert len(DAMAGED) == 20
    assert {"paris_louvre_000136", "paris_museedorsay_001059", "paris_triomphe_000867"} <= DAMAGED


def test_the_names_of_paris_stay_in_the_database_when_oxford_is_asked_for(tmp_path: Path) -> None:
    assert len(read_retrieval_sets(paris(tmp_path), "oxford")["oxford5k"].database) == 3


def test_missing_pictures_are_refused_with_their_number_and_the_first(tmp_path: Path) -> None:
    oxford(tmp_path)
    for name in ("all_souls_000002", "balliol_000001"):
        (tmp_path / f"jpg/{name}.jpg").unlink()
    sentence = r"2 of the 4 pictures of the ground truth in .*lab are missing, the first is .*all_souls_000002.jpg"
    with pytest.raises(InputError, match=sentence):
        read_retrieval_sets(tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(oxford(tmp_path) / "jpg/copy", PICTURES[:1])
    with pytest.raises(InputError, match="have one name"):
        read_retrieval_sets(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "all_souls_1_query.txt is empty"),
        ("oxc1_all_souls_000001", "all_souls_1_query.txt: a box needs four numbers"),
        ("oxc1_all_souls_000001 1 2 3", "all_souls_1_query.txt: a box needs four numbers"),
        ("oxc1_all_souls_000001 1 2 3 4 5", "all_souls_1_query.txt: a box needs four numbers"),
        ("oxc1_all_souls_000001 1 2 3 x", "all_souls_1_query.txt: a box needs four numbers"),
        ("oxc1_all_souls_000001 1 2 nan 4", "all_souls_1_query.txt: a box needs finite"),
        ("oxc1_all_souls_000001 5 2 3 4", "all_souls_1_query.txt: a box needs finite x1 < x2 and y1 < y2, got 5"),
    ],
)
def test_a_damaged_query_file_is_refused_with_its_name(text: str, sentence: str, tmp_path: Path) -> None:
    (oxford(tmp_path) / "lab/all_souls_1_query.txt").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_retrieval_sets(tmp_path)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (oxford(tmp_path) / "lab/all_souls_1_junk.txt").unlink()
    with pytest.raises(InputError, match=r"cannot read .*all_souls_1_junk.txt: No such file"):
        read_retrieval_sets(tmp_path)


def test_a_list_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (oxford(tmp_path) / "lab/all_souls_1_good.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"all_souls_1_good.txt is not text"):
        read_retrieval_sets(tmp_path)


def test_a_folder_without_ground_truth_is_refused_with_where_it_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path / "jpg", PICTURES)
    with pytest.raises(InputError, match=r"no ground truth in .*lab/ or in groundtruth/"):
        read_retrieval_sets(tmp_path, "paris")
