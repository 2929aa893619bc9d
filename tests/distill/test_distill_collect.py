"""Pictures brought to one size: what is kept, what is left out and why, and that a second run goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import deepir.distill.collect as module
from deepir.datasets import read_labelled_folder
from deepir.distill.collect import LOG, MANIFEST, CollectConfig, collect
from deepir.distill.collect_log import appending, read_log
from deepir.distill.collect_pictures import fit_picture, random_crops
from deepir.distill.collect_source import ClassLimits, check_label, read_listing
from deepir.distill.data_cli import collect_command
from deepir.errors import InputError, OptionError
from deepir.image import Image, read_image

SIZE = (48, 64)
SMALL = CollectConfig(size=SIZE)

sides = st.integers(1, 200)


def ramp(height: int, width: int) -> Image:
    """Red grows downwards, green to the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, height)[:, None].round()
    image[..., 1] = np.linspace(0, 255, width)[None, :].round()
    return image


def write(path: Path, image: Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray((ramp(60, 80) if image is None else image)[:, :, ::-1]))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three labels with one, two and three pictures."""
    for number, label in enumerate(("cup", "fork", "brand/tea"), 1):
        for view in range(number):
            write(tmp_path / "photos" / label / f"{view}.png")
    return tmp_path / "photos"


def run(*words: object) -> Result:
    return CliRunner().invoke(collect_command, [str(word) for word in words])


def names(manifest: dict[str, Any]) -> list[str]:
    return sorted(picture["image"] for picture in manifest["pictures"])


@given(height=sides, width=sides, fit=st.sampled_from(["crop", "stretch"]))
@settings(max_examples=30, deadline=None)
def test_every_picture_comes_out_at_the_size(height: int, width: int, fit: Any) -> None:
    assert fit_picture(ramp(height, width), SIZE, fit).shape == (*SIZE, 3)


def test_crop_keeps_the_aspect_and_the_middle_and_stretch_keeps_the_whole() -> None:
    wide = ramp(96, 256)  # covers 48x64 at a half, as 48x128: the outer quarters go
    cropped, stretched = fit_picture(wide, SIZE, "crop"), fit_picture(wide, SIZE, "stretch")
    middle = cv2.resize(wide, (128, 48), interpolation=cv2.INTER_AREA)[:, 32:96]
    assert np.abs(cropped.astype(int) - middle).max() <= 1
    assert (stretched[0, 0, 1] < 8, stretched[0, -1, 1] > 247) == (True, True)


def test_a_picture_of_the_size_is_not_touched() -> None:
    image = ramp(*SIZE)
    np.testing.assert_array_equal(fit_picture(image, SIZE, "crop"), image)


def test_a_narrow_strip_makes_no_huge_picture_on_the_way() -> None:
    assert fit_picture(ramp(1, 65_000), (384, 512), "crop").shape == (384, 512, 3)


def test_random_crops_are_half_way_between_the_picture_and_the_size() -> None:
    crops = random_crops(ramp(100, 200), SIZE, 5, np.random.default_rng(0))
    assert [crop.shape for crop in crops] == [(74, 132, 3)] * 5
    assert len({crop.tobytes() for crop in crops}) > 1
    assert [crop.shape for crop in random_crops(ramp(10, 20), SIZE, 1, np.random.default_rng(0))] == [(10, 20, 3)]


def test_a_folder_becomes_a_training_set_of_one_size_with_a_true_manifest(photos: Path, tmp_path: Path) -> None:
    manifest = collect(read_listing(photos), tmp_path / "out", SMALL)
    images = read_labelled_folder(tmp_path / "out")
    assert sorted({image.label for image in images}) == ["brand/tea", "cup", "fork"]
    assert {read_image(image.path).shape for image in images} == {(*SIZE, 3)}
    assert manifest == json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["counts"] == {"pictures": 6, "files": 6, "labels": 3}
    for picture in manifest["pictures"]:
        assert picture["sha256"] == hashlib.sha256((tmp_path / "out" / picture["image"]).read_bytes()).hexdigest()


def test_crops_lie_beside_their_picture_and_depend_on_the_seed_alone(photos: Path, tmp_path: Path) -> None:
    listing = read_listing(photos)
    seeds = {"a": 1, "b": 1, "c": 2}
    made = {
        name: collect(listing, tmp_path / name, CollectConfig(size=(32, 32), crops=2, seed=seed))["pictures"]
        for name, seed in seeds.items()
    }
    assert {"cup/0.jpg", "cup/0~1.jpg", "cup/0~2.jpg"} <= {picture["image"] for picture in made["a"]}
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_pictures_smaller_than_the_size_are_left_out_or_enlarged(photos: Path, tmp_path: Path) -> None:
    write(photos / "cup" / "tiny.png", ramp(47, 200))
    manifest = collect(read_listing(photos), tmp_path / "out", SMALL)
    assert (manifest["counts"]["too small"], manifest["left_out"]["too small"]) == (1, ["cup/tiny.png"])
    kept = collect(read_listing(photos), tmp_path / "kept", CollectConfig(size=SIZE, keep_small=True))
    assert "cup/tiny.jpg" in names(kept)


def test_a_damaged_picture_is_counted_and_does_not_stop_the_others(photos: Path, tmp_path: Path) -> None:
    (photos / "fork" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    manifest = collect(read_listing(photos), tmp_path / "out", SMALL)
    assert (manifest["counts"]["pictures"], manifest["left_out"]["unreadable"]) == (6, ["fork/broken.jpg"])


def test_labels_outside_the_limits_are_left_out(photos: Path, tmp_path: Path) -> None:
    config = CollectConfig(size=SIZE, limits=ClassLimits(fewest=2, most=2))
    manifest = collect(read_listing(photos), tmp_path / "out", config)
    assert names(manifest) == ["fork/0.jpg", "fork/1.jpg"]
    assert manifest["left_out"]["labels outside the limits"] == ["brand/tea", "cup"]


def test_a_label_that_falls_below_the_limit_by_small_pictures_leaves_no_file(photos: Path, tmp_path: Path) -> None:
    write(photos / "fork" / "1.png", ramp(10, 10))
    config = CollectConfig(size=SIZE, limits=ClassLimits(fewest=2))
    for _ in range(3):
        manifest = collect(read_listing(photos), tmp_path / "out", config)
        assert {image.label for image in read_labelled_folder(tmp_path / "out")} == {"brand/tea"}
        assert manifest["left_out"]["labels outside the limits"] == ["cup", "fork"]
        assert not (tmp_path / "out" / "fork").exists()
        # a settings line, three of tea, two of fork: that fork is out of reach is known from then on
        assert len(read_log(tmp_path / "out" / LOG)) == 6
    write(photos / "fork" / "2.png")
    assert "fork/0.jpg" in names(collect(read_listing(photos), tmp_path / "out", config))


def test_pictures_that_are_done_are_not_done_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = collect(read_listing(photos), tmp_path / "out", SMALL)
    write(photos / "cup" / "new.png")
    (tmp_path / "out" / "fork" / "1.jpg").unlink()
    opened: list[str] = []
    monkeypatch.setattr(module, "read_image", lambda path: (opened.append(path.name), read_image(path))[1])
    second = collect(read_listing(photos), tmp_path / "out", SMALL)
    assert sorted(opened) == ["1.png", "new.png"]
    assert {picture["image"] for picture in second["pictures"]} - set(names(first)) == {"cup/new.jpg"}


def test_an_interrupted_run_goes_on_even_after_a_torn_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def interrupted(path: Path) -> Image:
        opened.append(path)
        if len(opened) == 4:
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(module, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(read_listing(photos), tmp_path / "out", SMALL)
    with (tmp_path / "out" / LOG).open("a") as stream:
        stream.write('{"image": "cup/0.jp')
    manifest = collect(read_listing(photos), tmp_path / "out", SMALL)
    assert (len(opened), manifest["counts"]["pictures"]) == (7, 6)
    assert len(read_log(tmp_path / "out" / LOG)) == 7


def test_a_picture_replaced_by_another_is_done_again(photos: Path, tmp_path: Path) -> None:
    (photos / "cup" / "1.png").write_bytes(b"broken")
    collect(read_listing(photos), tmp_path / "out", SMALL)
    write(photos / "cup" / "1.png")
    assert "cup/1.jpg" in names(collect(read_listing(photos), tmp_path / "out", SMALL))


def test_files_of_pictures_that_are_gone_go_away_and_foreign_files_stay(photos: Path, tmp_path: Path) -> None:
    collect(read_listing(photos), tmp_path / "out", SMALL)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (photos / "cup" / "0.png").unlink()
    collect(read_listing(photos), tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "cup").exists()
    assert (tmp_path / "out" / "notes.txt").exists()


def test_a_log_that_names_files_elsewhere_removes_nothing(photos: Path, tmp_path: Path) -> None:
    collect(read_listing(photos), tmp_path / "out", SMALL)
    precious = write(tmp_path / "precious.jpg")
    with appending(tmp_path / "out" / LOG) as append:
        append({"image": "x/y.jpg", "written": {"../precious.jpg": "0", str(precious): "0"}})
    collect(read_listing(photos), tmp_path / "out", SMALL)
    assert precious.exists()


def test_pictures_that_would_share_a_name_get_names_of_their_own(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "A.png", "b.png", "b~1.png", ".c.png", "d.png", "D.png"):
        write(tmp_path / "photos" / "x" / name)
    rows = "".join(
        f"x/{name} 7\n" for name in ("a.png", "a.bmp", "A.png", "b.png", "b~1.png", ".c.png", "d.png", "D.png")
    )
    (tmp_path / "photos" / "list.txt").write_text(rows)
    manifest = collect(
        read_listing(tmp_path / "photos" / "list.txt"), tmp_path / "out", CollectConfig(size=SIZE, crops=1)
    )
    files = names(manifest)
    assert len({file.casefold() for file in files}) == 16
    assert {"7/c.jpg", "7/c~1.jpg"} <= set(files)
    assert len(read_labelled_folder(tmp_path / "out")) == 16


def test_a_list_names_pictures_and_labels_and_missing_files_are_counted(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "annotation_clean_train.txt"
    path.write_text("cup/0.png 0\nfork/0.png 1\n\nfork/my 1.png 1\nfork/absent.png 1\n" + "x" * 300 + ".png 2\n")
    write(photos / "fork" / "my 1.png")
    listing = read_listing(photos, [path])
    assert [(image.path.name, image.label) for image in listing.images] == [
        ("0.png", "0"),
        ("0.png", "1"),
        ("my 1.png", "1"),
    ]
    assert len(listing.left_out["missing"]) == 2
    result = run(photos, tmp_path / "out", "--size", "48x64", "--lists", path)
    assert result.exit_code == 0, result.output
    assert f"left out, missing: 2, the first is {photos / 'fork' / 'absent.png'}" in result.stderr


def test_a_list_alone_is_seen_from_its_folder_and_the_output_may_lie_beside_it(photos: Path) -> None:
    (photos / "list.txt").write_text("cup/0.png 0\n")
    manifest = collect(read_listing(photos / "list.txt"), photos / "out", SMALL)
    assert names(manifest) == ["0/0.jpg"]


@pytest.mark.parametrize(
    "label", ["..", "../up", "/etc", "a//b", "", ".hidden", "a/../b", "a\\b", "a\nb", "a/", "nul\x00"]
)
def test_a_label_that_leads_out_of_the_folder_is_refused(label: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        check_label(label)


@pytest.mark.parametrize("label", ["12", "brand/product", "Notre-Dame de Paris", "Ünïcode", "a.b"])
def test_an_ordinary_label_is_taken(label: str) -> None:
    check_label(label)


def test_other_settings_need_another_folder(photos: Path, tmp_path: Path) -> None:
    collect(read_listing(photos), tmp_path / "out", SMALL)
    for config in (CollectConfig(size=(32, 32)), CollectConfig(size=SIZE, seed=1), CollectConfig(size=SIZE, crops=1)):
        with pytest.raises(OptionError, match="use another folder"):
            collect(read_listing(photos), tmp_path / "out", config)
    wider = CollectConfig(size=SIZE, limits=ClassLimits(fewest=2))
    assert collect(read_listing(photos), tmp_path / "out", wider)["counts"]["pictures"] == 5


def test_every_bad_input_is_one_sentence_with_its_exit_code(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "word.txt").write_text("photos/cup/0.png\n")
    (tmp_path / "up.txt").write_text("photos/cup/0.png ..\n")
    (tmp_path / "absent.txt").write_text("absent.png 1\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00 1")
    write(tmp_path / "used" / "cup" / "mine.png")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((tmp_path / "nowhere", tmp_path / "o"), 3, "nowhere"),
        ((tmp_path / "empty.txt", tmp_path / "o"), 3, "is empty"),
        ((tmp_path / "word.txt", tmp_path / "o"), 3, "line 1"),
        ((tmp_path / "up.txt", tmp_path / "o"), 3, "'..'"),
        ((tmp_path / "absent.txt", tmp_path / "o"), 3, "none of the 1 pictures"),
        ((tmp_path / "binary.txt", tmp_path / "o"), 3, "neither a folder"),
        ((tmp_path / "word.txt", tmp_path / "o", "--lists", tmp_path / "up.txt"), 2, "not a folder"),
        ((photos, tmp_path / "o", "--lists", tmp_path / "no.txt"), 3, "cannot read the list"),
        ((photos, photos / "o"), 2, "lie in one another"),
        ((photos, photos), 2, "lie in one another"),
        ((photos, tmp_path), 2, "lie in one another"),
        ((photos, tmp_path / "used"), 2, "not empty"),
        ((photos, tmp_path / "o", "--crops", -1), 2, "-1"),
        ((photos, tmp_path / "o", "--size", "cat"), 2, "cat"),
        ((photos, tmp_path / "o", "--min-pictures", 0), 2, "got 0"),
        ((photos, tmp_path / "o", "--min-pictures", 3, "--max-pictures", 2), 2, "3 to 2"),
        ((photos, tmp_path / "o2"), 3, "nothing is left of the 6 pictures"),
    ]
    for words, exit_code, part in cases:
        result = run(*words)
        assert (result.exit_code, result.stderr.count("\n"), part in result.stderr) == (exit_code, 1, True), (
            result.stderr
        )
    assert not (tmp_path / "o").exists()
    assert sorted(file.name for file in (tmp_path / "used").rglob("*") if file.is_file()) == ["mine.png"]


def test_the_command_says_what_it_did_and_what_comes_next(photos: Path, tmp_path: Path) -> None:
    result = run(photos, tmp_path / "out", "--size", "48x64", "--crops", 1)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "collected 12 files of 6 pictures with 3 labels" in result.stderr
    assert f"next: deepir-distill train {tmp_path / 'out'}" in result.stderr
    assert run(photos, tmp_path / "out", "--size", "48x64", "--crops", 1, "-q").output == ""
