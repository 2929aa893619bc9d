"""Pictures with ground truth: folders of labels, benchmark.json, and telling the layouts apart."""

import json
import pickle
from pathlib import Path

import pytest

from deepir.datasets import (
    LAYOUTS,
    LabelledImage,
    read_labelled_folder,
    read_picture_paths,
    read_retrieval_sets,
    read_training_images,
)
from deepir.errors import InputError, OptionError


def make_pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write_benchmark(folder: Path, content: object) -> Path:
    (folder / "benchmark.json").write_text(json.dumps(content))
    return folder / "benchmark.json"


LISTED = ("cola/1.jpg", "cola/2.jpg", "blur.jpg")


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
    assert shop.queries[0].junk == {tmp_path / "cola/1.jpg"}
    assert len(shop.database) == 5


def test_a_label_with_one_picture_is_in_the_database_and_no_query(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg", "cola/2.jpg", "tea/1.jpg")
    shop = read_retrieval_sets(tmp_path)[tmp_path.name]
    assert (len(shop.database), len(shop.queries), shop.left_out) == (3, 2, 1)


def test_labels_with_single_pictures_only_are_refused(tmp_path: Path) -> None:
    make_pictures(tmp_path, "cola/1.jpg", "tea/1.jpg")
    with pytest.raises(InputError, match="single picture"):
        read_retrieval_sets(tmp_path)


@pytest.mark.parametrize("by_folder", [True, False])
def test_a_benchmark_is_read_by_its_folder_and_by_its_name(by_folder: bool, tmp_path: Path) -> None:
    manifest = write_benchmark(make_pictures(tmp_path, *LISTED), one_set())
    shop = read_retrieval_sets(tmp_path if by_folder else manifest)["shop"]
    (query,) = shop.queries
    assert shop.database == (tmp_path / "cola/1.jpg", tmp_path / "cola/2.jpg", tmp_path / "blur.jpg")
    assert (query.key, query.image) == ("q1", tmp_path / "cola/1.jpg")
    assert (query.positives, query.box) == ({tmp_path / "cola/2.jpg"}, None)
    assert query.junk == {tmp_path / "blur.jpg", tmp_path / "cola/1.jpg"}


def test_junk_may_be_left_out_and_the_querys_own_image_is_junk_all_the_same(tmp_path: Path) -> None:
    query = {"id": 7, "image": "cola/1.jpg", "positives": ["cola/1.jpg", "cola/2.jpg"]}
    manifest = write_benchmark(make_pictures(tmp_path, *LISTED), one_set(queries=[query]))
    (found,) = read_retrieval_sets(manifest)["shop"].queries
    assert found.junk == {tmp_path / "cola/1.jpg"}
    assert found.positives == {tmp_path / "cola/2.jpg"}


def test_a_query_may_have_a_box(tmp_path: Path) -> None:
    query = {"id": 7, "image": "cola/1.jpg", "positives": ["cola/2.jpg"], "bbox": [1, 2, 30.5, 40]}
    manifest = write_benchmark(make_pictures(tmp_path, *LISTED), one_set(queries=[query]))
    assert read_retrieval_sets(manifest)["shop"].queries[0].box == (1, 2, 30.5, 40)


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "x"], [1, 2, 1, 4], [3, 2, 1, 4], [0, 0, 1, float("nan")], 5, {}])
def test_a_box_that_is_none_is_refused_with_its_query(box: object, tmp_path: Path) -> None:
    query = {"id": "q7", "image": "cola/1.jpg", "positives": ["cola/2.jpg"], "bbox": box}
    manifest = write_benchmark(make_pictures(tmp_path, *LISTED), one_set(queries=[query]))
    with pytest.raises(InputError, match=r"benchmark.json: q7: a box needs"):
        read_retrieval_sets(manifest)


def test_queries_without_positives_are_left_out_and_counted(tmp_path: Path) -> None:
    queries = [{"id": n, "image": "cola/1.jpg", "positives": ["cola/2.jpg"][:n]} for n in range(2)]
    manifest = write_benchmark(make_pictures(tmp_path, *LISTED), one_set(queries=queries))
    shop = read_retrieval_sets(manifest)["shop"]
    assert ([query.key for query in shop.queries], shop.left_out) == (["1"], 1)


def test_missing_pictures_are_refused_with_their_number_and_the_first(tmp_path: Path) -> None:
    manifest = write_benchmark(make_pictures(tmp_path, "cola/1.jpg"), one_set())
    with pytest.raises(InputError, match=r"2 of the 3 pictures of shop are missing, the first is .*cola/2.jpg"):
        read_retrieval_sets(manifest)


def test_a_picture_twice_in_a_database_is_refused(tmp_path: Path) -> None:
    manifest = write_benchmark(make_pictures(tmp_path, *LISTED), one_set(database=["cola/2.jpg", "cola/2.jpg"]))
    with pytest.raises(InputError, match=r"shop names .*cola/2.jpg 2 times"):
        read_retrieval_sets(manifest)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"sets": {}}, "no `sets` to score"),
        ({}, "no `sets` to score"),
        (one_set(queries=[]), "set shop has no queries"),
        (one_set(queries=[{"id": 1, "image": "a.jpg", "positives": []}]), "none of 1 has a positive"),
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


@pytest.mark.parametrize("text", ["{", "[" * 100_000], ids=["unfinished", "deep"])
def test_a_benchmark_that_is_not_json_is_refused_with_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(InputError, match=r"benchmark.json is not JSON"):
        read_retrieval_sets(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_that_is_not_there_is_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_retrieval_sets(tmp_path / "absent", layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_is_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_retrieval_sets(tmp_path, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_noise_is_refused(layout: str, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        read_retrieval_sets(tmp_path / "noise", layout)


def test_an_unknown_layout_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"one of auto, benchmark, .*, holidays, got 'coco'"):
        read_retrieval_sets(tmp_path, "coco")


def make_layout(folder: Path, layout: str) -> Path:
    """The smallest dataset of each layout that tells it apart."""
    if layout == "benchmark":
        return write_benchmark(make_pictures(folder, *LISTED), one_set())
    if layout == "csv":
        make_pictures(folder, "1.jpg", "2.jpg")
        (folder / "shop.csv").write_text("image,label\n1.jpg,cola\n2.jpg,cola\n")
        return folder / "shop.csv"
    if layout in {"oxford", "paris"}:
        name = {"oxford": "all_souls_000001", "paris": "paris_louvre_000001"}[layout]
        make_pictures(folder, f"jpg/{name}.jpg", "lab/place_1_ok.txt", "lab/place_1_junk.txt")
        (folder / "lab/place_1_query.txt").write_text(f"{'oxc1_' * (layout == 'oxford')}{name} 1 2 30 40")
        (folder / "lab/place_1_good.txt").write_text(name)
    if layout == "revisited":
        make_pictures(folder, "jpg/a.jpg", "jpg/q.jpg")
        entry = {"easy": [0], "hard": [0], "junk": [], "bbx": [0, 0, 1, 1]}
        content = {"imlist": ["a"], "qimlist": ["q"], "gnd": [entry]}
        (folder / "gnd_town.pkl").write_bytes(pickle.dumps(content))
    if layout == "holidays":
        make_pictures(folder, "jpg/100000.jpg", "jpg/100001.jpg")
    if layout == "labels":
        make_pictures(folder, "100000/100000.jpg", "100000/100001.jpg")
    return folder


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_the_layout_of_a_dataset_is_found_by_itself(layout: str, tmp_path: Path) -> None:
    source = make_layout(tmp_path, layout)
    found = read_retrieval_sets(source)
    assert found == read_retrieval_sets(source, layout)
    names = {"oxford": "oxford5k", "paris": "paris6k", "labels": tmp_path.name, "holidays": "holidays"}
    names |= {"benchmark": "shop", "csv": "shop", "revisited": "town easy"}
    assert next(iter(found)) == names[layout]
    assert all(one.protocol and one.name == name for name, one in found.items())


def test_a_benchmark_json_beside_other_ground_truth_comes_first(tmp_path: Path) -> None:
    make_layout(tmp_path, "oxford")
    make_layout(tmp_path, "benchmark")
    assert list(read_retrieval_sets(tmp_path)) == ["shop"]
    assert list(read_retrieval_sets(tmp_path, "oxford")) == ["oxford5k"]


def test_the_folder_one_stands_in_gives_its_name_to_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_layout(tmp_path / "shop", "labels")
    monkeypatch.chdir(tmp_path / "shop")
    assert list(read_retrieval_sets(Path())) == ["shop"]


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


def test_pictures_to_learn_from_are_those_that_no_benchmark_scores(tmp_path: Path) -> None:
    make_pictures(tmp_path, *LISTED, "seen.jpg")
    assert len(read_picture_paths(tmp_path)) == 4
    write_benchmark(tmp_path, {**one_set(), "train": [{"image": "seen.jpg", "label": "tea"}]})
    assert read_picture_paths(tmp_path) == [tmp_path / "seen.jpg"]
