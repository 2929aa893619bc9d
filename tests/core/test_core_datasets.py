"""Pictures with ground truth: folders of labels and benchmark.json."""

import json
from pathlib import Path

import pytest

from deepir.datasets import LabelledImage, read_labelled_folder, read_retrieval_sets, read_training_images
from deepir.errors import InputError


def make_pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write_benchmark(folder: Path, content: object) -> Path:
    (folder / "benchmark.json").write_text(json.dumps(content))
    return folder / "benchmark.json"


def one_set(**changes: object) -> dict:
    query = {"id": "q1", "image": "cola/1.jpg", "positives": ["cola/2.jpg"], "junk": ["blur.jpg"]}
    entry = {"database": ["cola/1.jpg", "cola/2.jpg", "blur.jpg"], "queries": [query], **changes}
    return {"sets": {"shop": entry}}


def test_the_label_is_the_path_below_the_folder(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg", "tea/green/2.png")
    assert read_labelled_folder(tmp_path) == [
        LabelledImage(tmp_path / "cola/1.jpg", "cola"),
        LabelledImage(tmp_path / "tea/green/2.png", "tea/green"),
    ]


def test_a_picture_outside_the_label_folders_is_refused_with_its_name(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg", "stray.jpg")
    with pytest.raises(InputError, match=r"stray.jpg lies outside a label folder"):
        read_labelled_folder(tmp_path)


def test_every_picture_of_a_folder_is_a_query_for_the_others_of_its_label(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg", "cola/2.jpg", "cola/3.jpg", "tea/1.jpg", "tea/2.jpg")
    shop = read_retrieval_sets(tmp_path)[tmp_path.name]
    assert [query.key for query in shop.queries] == ["cola/1.jpg", "cola/2.jpg", "cola/3.jpg", "tea/1.jpg", "tea/2.jpg"]
    assert shop.queries[0].positives == {tmp_path / "cola/2.jpg", tmp_path / "cola/3.jpg"}
    assert len(shop.database) == 5


def test_a_label_with_one_picture_is_in_the_database_and_no_query(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg", "cola/2.jpg", "tea/1.jpg")
    shop = read_retrieval_sets(tmp_path)[tmp_path.name]
    assert (len(shop.database), len(shop.queries)) == (3, 2)


def test_labels_with_single_pictures_only_are_refused(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg", "tea/1.jpg")
    with pytest.raises(InputError, match="single picture"):
        read_retrieval_sets(tmp_path)


@pytest.mark.parametrize("by_folder", [True, False])
def test_a_benchmark_is_read_by_its_folder_and_by_its_name(by_folder: bool, tmp_path: Path) -> None:
    manifest = write_benchmark(tmp_path, one_set())
    shop = read_retrieval_sets(tmp_path if by_folder else manifest)["shop"]
    (query,) = shop.queries
    assert shop.database == (tmp_path / "cola/1.jpg", tmp_path / "cola/2.jpg", tmp_path / "blur.jpg")
    assert (query.key, query.image) == ("q1", tmp_path / "cola/1.jpg")
    assert (query.positives, query.junk) == ({tmp_path / "cola/2.jpg"}, {tmp_path / "blur.jpg"})


def test_junk_may_be_left_out(tmp_path: Path) -> None:
    query = {"id": 7, "image": "a.jpg", "positives": ["b.jpg"]}
    manifest = write_benchmark(tmp_path, one_set(queries=[query]))
    assert read_retrieval_sets(manifest)["shop"].queries[0].junk == frozenset()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"sets": {}}, "no `sets` to score"),
        ({}, "no `sets` to score"),
        (one_set(queries=[]), "set shop has no queries"),
        (one_set(queries=[{"id": "q1"}]), "not a benchmark.json: .*image"),
        ({"sets": {"shop": {}}}, "not a benchmark.json: .*queries"),
        ({"sets": [1]}, "not a benchmark.json"),
        ([1], "must hold a JSON object, got list"),
    ],
)
def test_a_benchmark_in_another_form_is_refused_with_the_reason(content: object, sentence: str, tmp_path: Path) -> None:
    manifest = write_benchmark(tmp_path, content)
    with pytest.raises(InputError, match=sentence):
        read_retrieval_sets(manifest)


def test_a_benchmark_that_is_not_json_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text("{")
    with pytest.raises(InputError, match=r"benchmark.json is not JSON"):
        read_retrieval_sets(tmp_path)


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_retrieval_sets(tmp_path / "absent")


def test_training_pictures_of_a_benchmark_have_their_labels(tmp_path: Path) -> None:
    manifest = write_benchmark(
        tmp_path, {"train": [{"image": "a.jpg", "label": "cola"}, {"image": "b.jpg", "label": 7}]}
    )
    assert read_training_images(manifest) == [
        LabelledImage(tmp_path / "a.jpg", "cola"),
        LabelledImage(tmp_path / "b.jpg", "7"),
    ]


def test_training_pictures_of_a_folder_are_those_of_its_labels(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg")
    assert read_training_images(tmp_path) == read_labelled_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "no `train` pictures"),
        ({"train": []}, "no `train` pictures"),
        ({"train": [{"image": "a.jpg"}]}, "needs an image and a label .*label"),
        ({"train": ["a.jpg"]}, "needs an image and a label"),
        ({"train": 3}, "needs an image and a label"),
    ],
)
def test_training_pictures_in_another_form_are_refused(content: object, sentence: str, tmp_path: Path) -> None:
    manifest = write_benchmark(tmp_path, content)
    with pytest.raises(InputError, match=sentence):
        read_training_images(manifest)
