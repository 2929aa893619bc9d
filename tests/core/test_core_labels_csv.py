"""Labelled pictures in a CSV file: with and without roles; faults are named with their line."""

from pathlib import Path

import pytest

from deepir.datasets import RetrievalSet, read_labelled_queries, read_retrieval_sets
from deepir.errors import InputError

ROLES = "image,label,role\nq.jpg,cola,query\n1.jpg,cola,database\n2.jpg,tea,database\n1.jpg,cola,query\n"


def write(folder: Path, text: str | bytes, *, pictures: str = "q.jpg 1.jpg 2.jpg 3.jpg") -> Path:
    for name in pictures.split():
        (folder / name).touch()
    (folder / "shop.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "shop.csv"


def read(folder: Path, text: str | bytes) -> RetrievalSet:
    return read_retrieval_sets(write(folder, text))["shop"]


def test_without_roles_every_picture_searches_the_others_of_its_label(tmp_path: Path) -> None:
    found = read(tmp_path, "image,label\n1.jpg,cola\n2.jpg,cola\n3.jpg,tea\n")
    assert found.database == tuple(tmp_path / f"{n}.jpg" for n in (1, 2, 3))
    assert [query.key for query in found.queries] == ["1.jpg", "2.jpg"]
    assert found.queries[0].positives == {tmp_path / "2.jpg"}
    assert found.queries[0].junk == {tmp_path / "1.jpg"}
    assert found.left_out == 1


def test_roles_part_queries_from_the_database(tmp_path: Path) -> None:
    found = read(tmp_path, ROLES)
    assert found.database == (tmp_path / "1.jpg", tmp_path / "2.jpg")
    assert [(query.key, query.positives) for query in found.queries] == [("q.jpg", {tmp_path / "1.jpg"})]
    # the query 1.jpg finds nothing but itself
    assert found.left_out == 1


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage,label\r\n1.jpg,cola\r\n2.jpg,cola\r\n",
        'label,note,image\n"cola",x,"1.jpg"\ncola,y,2.jpg\n',
        "image,label\n 1.jpg , cola\n\n2.jpg,cola",
    ],
    ids=["as Excel writes it", "columns in another order", "with spaces and empty lines"],
)
def test_forms_that_programs_write_are_read(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text).queries[0].positives == {tmp_path / "2.jpg"}


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "4.jpg").touch()
    found = read(tmp_path, f"image,label\n1.jpg,cola\n{elsewhere}/4.jpg,cola\n")
    assert found.database[1] == elsewhere / "4.jpg"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: no column image and label"),
        ("1.jpg,cola\n2.jpg,cola\n", "line 1: no column image and label; .* got '1.jpg,cola'"),
        ("image,class\n1.jpg,cola\n", "line 1: no column label; .* got 'image,class'"),
        ("image,label\n1.jpg,cola\n2.jpg\n", "line 3: no label"),
        ("image,label\n1.jpg,cola\n2.jpg,  \n", "line 3: no label"),
        ("image,label\n,cola\n", "line 2: no image"),
        ("image,label,role\n1.jpg,cola,query\n2.jpg,cola,gallery\n", "line 3: role must be query or database, got 'g"),
        ("image,label,role\n1.jpg,cola\n", "line 2: role must be query or database, got None"),
        ("image,label\n1.jpg,a\nx.jpg,a\ny.jpg,a\n", r"line 3: no picture .*x.jpg \(2 are missing in all\)"),
        ("image,label\n1.jpg,a\n2.jpg,a\n1.jpg,b\n", "line 4: .*1.jpg is in line 2 already"),
        ("image,label\n1.jpg,a\n2.jpg,b\n", "none of 2 has a positive"),
        ("image,label\n", "none of 0 has a positive"),
        (b"image,label\n\xff\xfe.jpg,a\n", "is not CSV"),
        ('image,label\n"' + "x" * 200_000 + '",a\n', "is not CSV"),
    ],
)
def test_a_fault_is_refused_with_its_line(text: str | bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"shop\b.*{sentence}"):
        read(tmp_path, text)


def test_a_folder_is_no_csv(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        read_retrieval_sets(tmp_path, "csv")


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        (ROLES, [("q.jpg", "cola"), ("1.jpg", "cola")]),
        ("image,label\n1.jpg,cola\n3.jpg,tea\n", [("1.jpg", "cola"), ("3.jpg", "tea")]),
    ],
)
def test_queries_are_the_rows_of_that_role_or_all(text: str, queries: list[tuple[str, str]], tmp_path: Path) -> None:
    found = read_labelled_queries(write(tmp_path, text))
    assert [(query.path, query.label) for query in found] == [(tmp_path / name, label) for name, label in queries]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,label\n", "no picture to search with"),
        ("image,label,role\n1.jpg,cola,database\n", "no picture to search with"),
        ("image,label\nno.jpg,cola\n", "line 2: no picture"),
    ],
)
def test_a_list_without_queries_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        read_labelled_queries(write(tmp_path, text))


def test_a_folder_of_label_folders_gives_queries_too(tmp_path: Path) -> None:
    (tmp_path / "tea" / "green").mkdir(parents=True)
    (tmp_path / "tea" / "green" / "1.jpg").touch()
    (found,) = read_labelled_queries(tmp_path)
    assert (found.path, found.label) == (tmp_path / "tea" / "green" / "1.jpg", "tea/green")
