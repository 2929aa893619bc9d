"""The synthetic shop: the same seed gives the same files, and the files tell the truth about the pictures."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import pytest

Picture: TypeAlias = npt.NDArray[np.uint8]

SHOP = Path(__file__).parents[2] / "examples" / "shop"
SMALL = {
    "train_products": 4,
    "test_products": 3,
    "distractor_products": 2,
    "unknown_products": 4,
    "walk_products": 3,
    "train_photos": 2,
    "query_photos": 2,
    "frames": 40,
    "image_size": 160,
}


@pytest.fixture(scope="module")
def shop_modules() -> Iterator[dict[str, ModuleType]]:
    names = [path.stem for path in SHOP.glob("*.py")]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(SHOP))
    try:
        yield {name: importlib.import_module(name) for name in ("render", "catalogue", "walk", "lettering")}
    finally:
        sys.path.remove(str(SHOP))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


@pytest.fixture(scope="module")
def shop(shop_modules: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _render(shop_modules, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def truth(shop: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shop / "walk.jsonl").read_text(encoding="utf-8").splitlines()]


def _render(modules: dict[str, ModuleType], out: Path, **changes: int) -> Path:
    render = modules["render"]
    render.render_shop(out, render.ShopConfig(**SMALL | changes))
    return out


def _pictures(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.jpg"))}


def _labels(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _read(path: Path) -> Picture:
    picture = cv2.imread(str(path))
    assert picture is not None
    return np.asarray(picture, dtype=np.uint8)


def _count_matches(view: Picture, frame: Picture) -> int:
    """Count the details of the view that the middle third of the frame shows too."""
    orb = cv2.ORB.create(nfeatures=800, fastThreshold=8)
    middle = np.ascontiguousarray(frame[:, 213:427])
    _, details = orb.detectAndCompute(cv2.resize(view, None, fx=2, fy=2), None)
    _, seen = orb.detectAndCompute(middle, None)
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(details, seen, k=2)
    return sum(best.distance < 0.8 * second.distance for best, second in pairs)


def test_the_same_seed_gives_the_same_bytes(shop_modules: dict[str, ModuleType], shop: Path, tmp_path: Path) -> None:
    again = _render(shop_modules, tmp_path)
    assert _pictures(again) == _pictures(shop)
    assert (again / "walk.jsonl").read_bytes() == (shop / "walk.jsonl").read_bytes()


def test_another_seed_gives_another_shop(shop_modules: dict[str, ModuleType], shop: Path, tmp_path: Path) -> None:
    other = _render(shop_modules, tmp_path, seed=1, frames=4)
    assert not _labels(other / "train") & _labels(shop / "train")


def test_no_label_is_in_two_sets(shop: Path) -> None:
    sets = [_labels(shop / name) for name in ("train", "references", "distractors")]
    assert [len(labels) for labels in sets] == [4, 3, 2]
    assert len(set.union(*sets)) == 9


def test_no_brand_is_in_two_sets(shop_modules: dict[str, ModuleType]) -> None:
    sets = shop_modules["catalogue"].invent_catalogue({"train": 100, "test": 60, "unknown": 40}, seed=0)
    brands = [{product.brand for product in products} for products in sets.values()]
    assert sum(map(len, brands)) == len(set.union(*brands))


def test_every_path_of_the_benchmark_exists(shop: Path) -> None:
    benchmark = json.loads((shop / "benchmark.json").read_text(encoding="utf-8"))
    task = benchmark["sets"]["photo2reference"]
    images = [row["image"] for row in benchmark["train"] + task["queries"]] + task["database"]
    assert (len(benchmark["train"]), len(task["queries"]), len(task["database"])) == (20, 6, 11)
    assert all((shop / image).is_file() for image in images)


def test_the_positives_of_a_query_are_all_views_of_its_product(shop: Path) -> None:
    task = json.loads((shop / "benchmark.json").read_text(encoding="utf-8"))["sets"]["photo2reference"]
    for query in task["queries"]:
        label = query["image"].split("/")[1]
        assert query["positives"] == [f"references/{label}/view_{view}.jpg" for view in range(3)]
        assert set(query["positives"]) <= set(task["database"])


def test_pictures_have_the_size_of_the_config(shop: Path) -> None:
    for path in shop.rglob("*.jpg"):
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.shape == (160, 160, 3)


def test_the_video_has_one_frame_for_each_line_of_truth(
    shop_modules: dict[str, ModuleType], shop: Path, truth: list[dict[str, Any]]
) -> None:
    frames = list(shop_modules["walk"].read_frames(next(shop.glob("walk.[wm]*"))))
    assert [row["frame"] for row in truth] == list(range(40))
    assert len(frames) == 40
    assert frames[0].shape == (360, 640, 3)


def test_the_label_of_a_frame_is_well_visible_in_it(shop: Path, truth: list[dict[str, Any]]) -> None:
    labelled = [row for row in truth if row["label"] is not None]
    assert {row["label"] for row in labelled} == _labels(shop / "references")
    assert all(row["visible"][row["label"]] >= 0.6 for row in labelled)


def test_halfway_through_the_frames_of_a_label_its_product_is_in_the_middle(
    shop_modules: dict[str, ModuleType], shop: Path, truth: list[dict[str, Any]]
) -> None:
    frames = list(shop_modules["walk"].read_frames(next(shop.glob("walk.[wm]*"))))
    views = {path.parent.name: _read(path) for path in shop.glob("references/*/view_0.jpg")}
    for label in views:
        places = [row["frame"] for row in truth if row["label"] == label]
        matches = {name: _count_matches(view, frames[places[len(places) // 2]]) for name, view in views.items()}
        assert max(matches, key=matches.__getitem__) == label


def test_a_part_of_the_walk_shows_no_known_product(truth: list[dict[str, Any]]) -> None:
    assert sum(not row["visible"] for row in truth) >= 0.15 * len(truth)


def test_a_full_folder_is_refused(shop_modules: dict[str, ModuleType], shop: Path) -> None:
    with pytest.raises(FileExistsError, match="is not empty"):
        _render(shop_modules, shop)


def test_clearing_removes_what_was_rendered_and_nothing_else(
    shop_modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "train" / "some-label").mkdir(parents=True)
    (tmp_path / "walk.jsonl").touch()
    (tmp_path / "notes.txt").touch()
    shop_modules["render"].clear_shop(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_config_without_products_is_refused(shop_modules: dict[str, ModuleType]) -> None:
    with pytest.raises(ValueError, match="train_products must be at least 1, got 0"):
        shop_modules["render"].ShopConfig(train_products=0)


def test_the_bar_code_of_a_known_number_is_the_published_one(shop_modules: dict[str, ModuleType]) -> None:
    bars = shop_modules["lettering"].encode_ean13([5, 9, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5])
    assert bars == (
        "101" "0001011" "0100111" "0110011" "0010011" "0111101" "0011101"
        "01010" "1100110" "1101100" "1000010" "1011100" "1001110" "1000100" "101"
    )  # fmt: skip
