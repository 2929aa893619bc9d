"""Pictures that become views: what is left out, what is stored with the others, and what the commands say of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result

from deepir.card import ModelCard
from deepir.datasets import LabelledImage
from deepir.image import Image, read_image
from deepir.runtime import Index
from deepir.runtime.enrol import Enrolled, Enrolment, enrol
from deepir.runtime.extractor import Extractor
from deepir.runtime.pictures import THUMBNAIL, thumbnails_of

Texture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]


@pytest.fixture
def products(tmp_path: Path, texture: Texture, write_picture: WritePicture) -> Path:
    """Tea from four sides, one of them twice and one blurred, and salt of which two pictures are the same."""
    folder = tmp_path / "products"
    sides = [np.ascontiguousarray(np.roll(texture(1), 9 * number, axis=1)) for number in range(4)]
    for number, side in enumerate(sides):
        write_picture(folder / "tea" / f"{number}.png", side)
    write_picture(folder / "tea" / "again.png", sides[1])
    write_picture(folder / "tea" / "blurred.png", cv2.GaussianBlur(sides[2], (0, 0), 3))
    for name in ("first.png", "second.png"):
        write_picture(folder / "salt" / name, texture(2))
    return folder


@pytest.fixture
def built(tmp_path: Path, model: Path, products: Path, deepir_index: Command) -> Path:
    path = tmp_path / "i.usearch"
    assert deepir_index("build", path, products, "--model", model, "--keep-all").exit_code == 0
    return path


def names(path: Path) -> set[str]:
    return {f"{item.label}/{item.view}" for item in Index.open(path).items()}


def facts_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def test_repeated_and_blurred_pictures_are_left_out_counted_and_named(
    tmp_path: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    result = deepir_index("build", tmp_path / "i.usearch", products, "--model", model)
    assert result.exit_code == 0, result.stderr
    assert names(tmp_path / "i.usearch") == {"tea/0.png", "tea/1.png", "tea/2.png", "tea/3.png", "salt/first.png"}
    assert "left out 2 pictures as repeated (the same as another picture of their label" in result.stderr
    assert f"the first is {products / 'salt' / 'second.png'}" in result.stderr
    assert "left out 1 pictures as blurred (far less sharp than the others of their label" in result.stderr
    assert "5 new, 5 items, 2 labels" in result.stderr


def test_all_pictures_are_kept_when_asked_for(built: Path) -> None:
    assert len(Index.open(built)) == 8


def test_the_facts_for_programs_name_every_picture_that_was_left_out(
    tmp_path: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    (products / "tea" / "torn.jpg").write_bytes(b"torn")
    path = tmp_path / "i.usearch"
    facts = facts_of(deepir_index("build", path, products, "--model", model, "--skip-unreadable", "--json"))
    assert (facts["path"], facts["items"], facts["labels"], len(facts["keys"])) == (str(path), 5, 2, 5)
    assert facts["unreadable"] == [str(products / "tea" / "torn.jpg")]
    assert facts["blurred"] == [str(products / "tea" / "blurred.png")]
    assert facts["repeated"] == [str(products / "salt" / "second.png"), str(products / "tea" / "again.png")]
    index = Index.open(path)
    assert index.threshold is not None
    assert facts["threshold"] == pytest.approx(index.threshold.value)
    assert facts["keys"] == [item.key for item in index.items()]


def test_the_same_picture_of_two_labels_is_a_view_of_both(
    tmp_path: Path, model: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command
) -> None:
    for label in ("tea", "salt"):
        write_picture(tmp_path / "products" / label / "0.png", texture(1))
    assert deepir_index("build", tmp_path / "i.usearch", tmp_path / "products", "--model", model).exit_code == 0
    assert Index.open(tmp_path / "i.usearch").labels == {"salt": 1, "tea": 1}


def test_pictures_of_a_label_in_several_folders_are_compared_with_each_other(
    tmp_path: Path, model: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command
) -> None:
    for name, seed in (("a/tea__1.png", 1), ("a/salt__1.png", 2), ("b/tea__2.png", 1), ("b/salt__2.png", 3)):
        write_picture(tmp_path / "flat" / name, texture(seed))
    words = ("build", tmp_path / "i.usearch", tmp_path / "flat", "--model", model, "--label-pattern", "^(.+?)__")
    assert deepir_index(*words).exit_code == 0
    assert Index.open(tmp_path / "i.usearch").labels == {"salt": 2, "tea": 1}


def test_a_stored_picture_that_is_added_again_is_left_out(
    tmp_path: Path, built: Path, products: Path, deepir_index: Command
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes((products / "tea" / "0.png").read_bytes())
    facts = facts_of(deepir_index("add", built, "tea", copy, "--json"))
    assert (facts["keys"], facts["repeated"], facts["items"]) == ([], [str(copy)], 8)
    assert len(facts_of(deepir_index("add", built, "tea", copy, "--keep-all", "--json"))["keys"]) == 1


def test_a_stored_picture_that_is_gone_leaves_nothing_to_compare_with(
    built: Path, products: Path, deepir_index: Command
) -> None:
    moved = (products / "tea" / "0.png").rename(products / "moved.png")
    assert len(facts_of(deepir_index("add", built, "tea", moved, "--json"))["keys"]) == 1


def test_its_small_copy_is_compared_where_the_stored_picture_is_gone(
    tmp_path: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    path = tmp_path / "i.usearch"
    assert deepir_index("build", path, products, "--model", model, "--thumbnails", 96).exit_code == 0
    moved = (products / "tea" / "0.png").rename(products / "moved.png")
    assert facts_of(deepir_index("add", path, "tea", moved, "--json"))["repeated"] == [str(moved)]


def test_metadata_come_back_with_the_hit(
    built: Path, tmp_path: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command
) -> None:
    new = write_picture(tmp_path / "new.png", texture(4))
    assert deepir_index("add", built, "pepper", new, "--metadata", '{"price": 2.49, "shelf": [1, 2]}').exit_code == 0
    index = Index.open(built)
    (item,) = index.views_of("pepper")
    assert item.metadata == {"price": 2.49, "shelf": [1, 2]}
    assert all(not item.metadata for item in index.views_of("tea"))
    hit = index.search(index.descriptors([item.key])[0], 1)[0]
    assert (hit.key, hit.metadata) == (item.key, item.metadata)


@pytest.mark.parametrize("text", ["{", "[1]", '"price"', "null", '{"price": NaN}'])
def test_metadata_that_are_no_json_object_are_refused_and_nothing_is_written(
    text: str, built: Path, products: Path, deepir_index: Command
) -> None:
    before = built.read_bytes()
    result = deepir_index("add", built, "new", products / "tea" / "0.png", "--metadata", text)
    assert result.exit_code in {2, 3}
    assert result.stderr.count("\n") == 1
    assert built.read_bytes() == before
    assert "new" not in Index.open(built).labels


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"pose": "beside the door"}', "a pose is [x, y, theta]"),
        ('{"pose": [1, 2]}', "got [1, 2]"),
        ('{"pose": {"lat": 91, "lon": 2}}', "are they swapped?"),
        ('{"time": "noon"}', "a time is a number of seconds, got 'noon'"),
    ],
)
def test_a_pose_or_a_time_that_is_none_is_refused_before_a_map_of_places_holds_it(
    text: str, part: str, built: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    before = built.read_bytes()
    added = deepir_index("add", built, "new", products / "tea" / "0.png", "--metadata", text)
    anew = deepir_index("build", built, products, "--model", model, "--metadata", text)
    for result in (added, anew):
        assert (result.exit_code, result.stderr.count("\n"), part in result.stderr) == (2, 1, True), result.stderr
        assert text in result.stderr
    assert built.read_bytes() == before


def test_small_copies_are_kept_beside_the_index_and_named_in_the_metadata(
    tmp_path: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    path = tmp_path / "i.usearch"
    words = ("build", path, products, "--model", model, "--thumbnails", 64, "--keep-all", "--metadata", '{"a": 1}')
    assert deepir_index(*words).exit_code == 0
    items = list(Index.open(path).items())
    kept = {item.metadata[THUMBNAIL] for item in items}
    assert (len(items), len(kept)) == (8, 6)
    assert {file.name for file in thumbnails_of(path).iterdir()} == kept
    assert {read_image(thumbnails_of(path) / name).shape for name in kept} == {(48, 64, 3)}
    assert all(item.metadata["a"] == 1 for item in items)
    assert Index.open(path).footer.thumbnails == 64


def test_an_index_with_small_copies_keeps_them_of_what_is_added_too(
    tmp_path: Path, model: Path, products: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command
) -> None:
    path, new = tmp_path / "i.usearch", write_picture(tmp_path / "new.png", texture(4))
    assert deepir_index("build", path, products, "--model", model, "--thumbnails").exit_code == 0
    assert deepir_index("add", path, "pepper", new).exit_code == 0
    (item,) = Index.open(path).views_of("pepper")
    assert read_image(thumbnails_of(path) / item.metadata[THUMBNAIL]).shape == (120, 160, 3)


def test_no_small_copies_are_made_unless_asked_for(built: Path) -> None:
    assert not thumbnails_of(built).exists()
    assert all(THUMBNAIL not in item.metadata for item in Index.open(built).items())


def test_pictures_are_named_from_the_folder_of_the_index(built: Path, tmp_path: Path, products: Path) -> None:
    assert {item.source for item in Index.open(built).views_of("salt")} == {
        "products/salt/first.png",
        "products/salt/second.png",
    }


def test_pictures_outside_the_folder_of_the_index_are_named_by_their_whole_path(
    tmp_path: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    (tmp_path / "robot").mkdir()
    path = tmp_path / "robot" / "i.usearch"
    assert deepir_index("build", path, products, "--model", model).exit_code == 0
    assert {item.source for item in Index.open(path).views_of("salt")} == {str(products / "salt" / "first.png")}


def test_a_folder_given_to_add_stands_for_the_pictures_below_it(
    built: Path, products: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command
) -> None:
    for seed in (4, 5):
        write_picture(products / "new" / "deep" / f"{seed}.png", texture(seed))
    facts = facts_of(deepir_index("add", built, "pepper", products / "new", "--json"))
    assert (len(facts["keys"]), Index.open(built).labels["pepper"]) == (2, 2)


def test_unreadable_pictures_stop_an_addition_that_then_changes_nothing(
    built: Path, products: Path, deepir_index: Command
) -> None:
    (products / "tea" / "torn.jpg").write_bytes(b"torn")
    result = deepir_index("add", built, "pepper", products / "tea")
    assert (result.exit_code, "--skip-unreadable" in result.stderr) == (3, True)
    assert "pepper" not in Index.open(built).labels
    facts = facts_of(deepir_index("add", built, "pepper", products / "tea", "--skip-unreadable", "--json"))
    assert (len(facts["unreadable"]), len(facts["keys"])) == (1, 4)


@pytest.mark.parametrize("side", [0, 31])
def test_small_copies_too_small_to_see_anything_are_refused(
    side: int, tmp_path: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    result = deepir_index("build", tmp_path / "i.usearch", products, "--model", model, f"--thumbnails={side}")
    assert (result.exit_code, f"got {side}" in result.stderr) == (2, True)
    assert not list(tmp_path.glob("i.usearch*"))


def test_repeats_are_found_behind_the_map_of_an_index(
    tmp_path: Path, model: Path, products: Path, deepir_index: Command
) -> None:
    path = tmp_path / "i.usearch"
    assert deepir_index("build", path, products, "--model", model, "--dim", 4).exit_code == 0
    assert names(path) == {"tea/0.png", "tea/1.png", "tea/2.png", "tea/3.png", "salt/first.png"}
    again = deepir_index("add", path, "tea", products / "tea" / "0.png", "--json")
    assert facts_of(again)["repeated"] == [str(products / "tea" / "0.png")]


def test_no_pictures_are_enrolled_as_no_views(
    tmp_path: Path, model: Path, make_card: Callable[..., ModelCard], texture: Texture, write_picture: WritePicture
) -> None:
    index = Index.create(make_card(), model)
    done: list[int] = []
    enrolment = Enrolment(index_path=tmp_path / "i.usearch")
    with Extractor.open(model) as extractor:
        assert enrol(index, extractor, [], enrolment) == Enrolled()
        images = [LabelledImage(write_picture(tmp_path / f"{seed}.png", texture(seed)), "a") for seed in range(11)]
        enrolled = enrol(index, extractor, images, enrolment, done.append)
    assert (enrolled.keys, sum(done)) == (list(range(1, 12)), 11)
