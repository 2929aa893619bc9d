"""Which pictures calibrate: different ones, some to measure and others to judge; or a sentence that says why not."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepir.calib.images import FEWEST, ChosenImages, choose_images
from deepir.descriptors import Descriptors, normalise
from deepir.errors import InputError, ModelError, OptionError
from deepir.image import read_image
from deepir.spec import ModelSpec, Size

SPEC = ModelSpec(
    backbone="test:none",
    sizes=((48, 48),),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    stride=16,
    channels=8,
    dim=75,
)


def pattern(number: int, size: Size = (48, 48)) -> np.ndarray:
    """A picture that resembles that of no other number."""
    coarse = np.random.default_rng(number).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def fill(folder: Path, count: int, *, first: int = 0, size: Size = (48, 48)) -> Path:
    for number in range(first, first + count):
        write(folder / f"{number:04d}.png", pattern(number, size))
    return folder


class Describer:
    """Stands in for a model: the colours of a 5 x 5 picture; remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[list[Path]] = []

    def __call__(self, paths: Sequence[Path]) -> Descriptors:
        self.calls.append(list(paths))
        small = [cv2.resize(read_image(path), (5, 5), interpolation=cv2.INTER_AREA) for path in paths]
        return normalise(np.stack(small).reshape(len(paths), -1).astype(np.float32) - 128)


def choose(*sources: Path, describe: Callable[..., Descriptors] | None = None, **options: object) -> ChosenImages:
    return choose_images(sources, describe or Describer(), **{"spec": SPEC, **options})  # type: ignore[arg-type]


def used(chosen: ChosenImages) -> list[Path]:
    return [*chosen.images.measure, *chosen.images.judge]


def test_a_quarter_judges_what_the_others_measure(tmp_path: Path) -> None:
    chosen = choose(fill(tmp_path, 80))
    assert (len(chosen.images.measure), len(chosen.images.judge)) == (60, 20)
    assert len(set(used(chosen))) == 80


def test_of_few_pictures_sixteen_judge(tmp_path: Path) -> None:
    chosen = choose(fill(tmp_path, FEWEST))
    assert (len(chosen.images.measure), len(chosen.images.judge)) == (16, 16)


def test_no_more_are_used_than_asked_for(tmp_path: Path) -> None:
    chosen = choose(fill(tmp_path, 90), most=72)
    assert (len(chosen.images.measure), len(chosen.images.judge)) == (54, 18)


def test_the_same_seed_makes_the_same_choice_and_another_seed_another(tmp_path: Path) -> None:
    fill(tmp_path, 60)
    once, again, other = (choose(tmp_path, most=40, seed=seed).images for seed in (3, 3, 4))
    assert once == again
    assert set(once.judge) != set(other.judge)


def test_the_descriptors_of_the_judging_pictures_come_with_them_and_none_is_described_twice(tmp_path: Path) -> None:
    describe = Describer()
    chosen = choose(fill(tmp_path, 40), describe=describe)
    assert [len(call) for call in describe.calls] == [40]
    np.testing.assert_array_equal(chosen.judge_nd, Describer()(chosen.images.judge))


def test_the_pictures_to_measure_are_a_diverse_part_and_the_most_different_come_first(tmp_path: Path) -> None:
    fill(tmp_path, 30)
    # forty views of one thing, similar but no duplicates
    for view in range(40):
        moved = 0.65 * pattern(999).astype(np.float32) + 0.35 * pattern(5000 + view)
        write(tmp_path / f"0000view{view:02d}.png", moved.astype(np.uint8))
    images = choose(tmp_path, most=48).images
    assert images.counts["duplicates"] == 0
    assert sum("view" in path.name for path in images.measure[:18]) < 4


@pytest.mark.parametrize("copy", ["recoded", "smaller", "same"])
def test_a_near_duplicate_is_left_out_and_the_first_of_the_two_stays(tmp_path: Path, copy: str) -> None:
    fill(tmp_path, 40)
    for number in range(0, 40, 4):
        image = pattern(number)
        if copy == "recoded":
            (tmp_path / f"{number:04d}_copy.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        else:
            side = 36 if copy == "smaller" else 48
            write(tmp_path / f"{number:04d}_copy.png", cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))
    lines: list[str] = []
    chosen = choose(tmp_path, report=lines.append)
    assert sorted(path.name for path in used(chosen)) == [f"{number:04d}.png" for number in range(40)]
    assert (chosen.images.counts["found"], chosen.images.counts["duplicates"]) == (50, 10)
    assert "left out: 10 near-duplicates and 0 blank pictures" in lines


def test_no_two_chosen_pictures_are_alike_so_none_judges_its_own_copy(tmp_path: Path) -> None:
    fill(tmp_path, 40)
    for number in range(40):
        for version in range(2):
            noise = np.random.default_rng(version).normal(0, 5, (48, 48, 3))
            write(tmp_path / f"{number:04d}_{version}.png", np.clip(pattern(number) + noise, 0, 255).astype(np.uint8))
    chosen = used(choose(tmp_path))
    assert len(chosen) == 40
    assert all(one.name[:4] != other.name[:4] for one, other in combinations(chosen, 2))


def test_the_same_file_given_twice_counts_once(tmp_path: Path) -> None:
    fill(tmp_path / "shop", 36)
    (tmp_path / "list.txt").write_text("shop/0001.png\nshop/0002.png\n")
    chosen = choose(tmp_path / "shop", tmp_path / "list.txt", tmp_path / "shop")
    assert (chosen.images.counts["found"], len(used(chosen))) == (36, 36)
    assert chosen.images.counts["duplicates"] == 0


@pytest.mark.parametrize("damage", ["empty", "cut short", "text", "missing", "pipe", "folder"])
def test_a_few_unreadable_pictures_are_left_out_counted_and_named(tmp_path: Path, damage: str) -> None:
    fill(tmp_path / "shop", 40)
    broken = tmp_path / "shop" / "broken.jpg"
    {
        "empty": lambda: broken.write_bytes(b""),
        "cut short": lambda: broken.write_bytes(cv2.imencode(".jpg", pattern(1))[1].tobytes()[:-100]),
        "text": lambda: broken.write_text("not a picture"),
        "missing": lambda: None,
        "pipe": lambda: os.mkfifo(broken),
        "folder": broken.mkdir,
    }[damage]()
    listed = tmp_path / "list.txt"
    listed.write_text("shop/broken.jpg\n")
    lines: list[str] = []
    chosen = choose(tmp_path / "shop", listed, report=lines.append)
    assert chosen.images.counts["unreadable"] == 1
    assert len(used(chosen)) == 40
    assert f"warning: 1 of 41 pictures cannot be decoded ({broken}): they are left out" in lines


def test_more_than_a_twentieth_unreadable_is_refused_with_the_first_names(tmp_path: Path) -> None:
    fill(tmp_path, 57)
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(b"no")
    describe = Describer()
    with pytest.raises(
        InputError, match=r"4 of 61 pictures.*a\.jpg, .*b\.jpg, .*c\.jpg, \.\.\.\), more than 5%"
    ) as caught:
        choose(tmp_path, describe=describe)
    assert caught.value.exit_code == 3
    assert describe.calls == []


def test_blank_pictures_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, 40)
    for level in range(0, 200, 40):
        write(tmp_path / f"cap{level}.png", np.full((48, 48, 3), level, np.uint8))
    chosen = choose(tmp_path)
    assert chosen.images.counts["blank"] == 5
    assert not [path for path in used(chosen) if "cap" in path.name]


def test_fewer_than_thirty_two_pictures_are_refused_before_any_is_described(tmp_path: Path) -> None:
    describe = Describer()
    with pytest.raises(InputError, match=r"at least 32 pictures that differ.*got 31 of 31 in .*deepir-calib record"):
        choose(fill(tmp_path, 31), describe=describe)
    assert describe.calls == []


def test_fewer_than_thirty_two_without_copies_and_blank_ones_are_refused_with_the_numbers(tmp_path: Path) -> None:
    fill(tmp_path, 30)
    for number in range(8):
        write(tmp_path / f"{number:04d}_copy.png", pattern(number))
    write(tmp_path / "cap.png", np.zeros((48, 48, 3), np.uint8))
    with pytest.raises(InputError, match=r"got 30 of 39 in .* \(1 blank, 8 near-duplicates of others\)"):
        choose(tmp_path)


def test_fewer_than_a_hundred_and_twenty_eight_are_warned_about(tmp_path: Path) -> None:
    lines: list[str] = []
    choose(fill(tmp_path, 127), report=lines.append)
    assert lines == ["warning: 127 pictures; fewer than 128 make ranges and verdict uncertain"]


def test_enough_good_pictures_are_taken_without_a_word(tmp_path: Path) -> None:
    lines: list[str] = []
    choose(fill(tmp_path, 128), report=lines.append)
    assert lines == []


@pytest.mark.parametrize(
    ("resize", "size", "small"),
    [
        ("stretch", (24, 96), False),
        ("stretch", (23, 96), True),
        ("longest", (20, 24), False),
        ("longest", (23, 23), True),
    ],
)
def test_pictures_far_below_the_models_size_are_warned_about(
    tmp_path: Path, resize: str, size: Size, *, small: bool
) -> None:
    fill(tmp_path, 33)
    fill(tmp_path, 3, first=33, size=size)
    spec = ModelSpec(**{**{name: getattr(SPEC, name) for name in SPEC.__slots__}, "resize": resize})
    lines: list[str] = []
    chosen = choose(tmp_path, spec=spec, report=lines.append)
    assert chosen.images.counts["small"] == (3 if small else 0)
    assert any("3 of 36 pictures are less than half as large" in line for line in lines) == small


def test_of_far_more_pictures_than_needed_a_random_part_is_described(tmp_path: Path) -> None:
    describe, lines = Describer(), list[str]()
    chosen = choose(fill(tmp_path, 140), describe=describe, most=32, report=lines.append)
    assert (chosen.images.counts["found"], chosen.images.counts["drawn"]) == (140, 128)
    assert (len(describe.calls[0]), len(used(chosen))) == (128, 32)
    # in the order of the folder, so that of near-duplicates the first stays, but not its beginning
    assert describe.calls[0] == sorted(describe.calls[0])
    assert describe.calls[0][-1].name > "0130.png"
    assert lines[0] == "found 140 pictures: 128 of them, drawn at random, are considered"


def test_judging_pictures_keep_their_labels_and_come_in_twos_at_least(tmp_path: Path) -> None:
    for number in range(96):
        write(tmp_path / f"thing{number // 3:02d}" / f"{number}.png", pattern(number))
    images = choose(tmp_path).images
    assert images.labels == {path: path.parent.name for path in images.judge}
    assert min(Counter(images.labels.values()).values()) >= 2


def test_pictures_without_a_label_have_none(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    for number in range(20, 48):
        write(tmp_path / ("tea" if number % 2 else "salt") / f"{number}.png", pattern(number))
    images = choose(tmp_path).images
    loose = {path for path in images.judge if path.parent == tmp_path}
    assert loose
    assert set(images.labels) == set(images.judge) - loose


def test_pictures_that_a_benchmark_scores_never_calibrate(tmp_path: Path) -> None:
    fill(tmp_path, 60)
    train = [{"image": f"{number:04d}.png", "label": "tea"} for number in range(40)]
    (tmp_path / "benchmark.json").write_text(json.dumps({"sets": {}, "train": train}))
    assert max(path.name for path in used(choose(tmp_path))) == "0039.png"


@pytest.mark.parametrize(
    "describe",
    [
        lambda paths: np.full((len(paths), 4), np.nan, np.float32),
        lambda paths: np.ones((len(paths) - 1, 4), np.float32),
        lambda paths: np.ones(len(paths), np.float32),
    ],
    ids=["not finite", "a row is missing", "no rows"],
)
def test_a_model_that_describes_nothing_usable_is_refused(
    tmp_path: Path, describe: Callable[[Sequence[Path]], Descriptors]
) -> None:
    with pytest.raises(ModelError, match="40 pictures by an array"):
        choose(fill(tmp_path, 40), describe=describe)


def test_a_limit_below_the_fewest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a limit of 31: give --num 32 or more"):
        choose(fill(tmp_path, 1), most=31)
