"""deepir-index from the outside."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result

from deepir.card import ModelCard
from deepir.image import Image
from deepir.runtime import Index

Picture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]


def test_build_says_what_it_wrote_and_what_to_type_next(
    tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command
) -> None:
    path = tmp_path / "shop.usearch"
    result = deepir_index("build", path, catalogue, "--model", model)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"wrote {path}" in result.stderr
    assert "12 items, 4 labels" in result.stderr
    assert f"next: deepir-run camera0 --index {path}" in result.stderr


def test_labels_are_sub_folders_and_the_stem_of_loose_files(
    tmp_path: Path,
    model: Path,
    rng: np.random.Generator,
    picture: Picture,
    write_picture: WritePicture,
    deepir_index: Command,
) -> None:
    for name in ("brand/cup/1.png", "brand/cup/2.png", "plate/1.png", "fork.png"):
        write_picture(tmp_path / "things" / name, picture("red", rng))
    assert deepir_index("build", tmp_path / "i.usearch", tmp_path / "things", "--model", model).exit_code == 0
    assert Index.open(tmp_path / "i.usearch").labels == {"brand/cup": 2, "fork": 1, "plate": 1}


def test_build_warns_of_a_threshold_from_one_view_a_label(
    tmp_path: Path,
    model: Path,
    rng: np.random.Generator,
    picture: Picture,
    write_picture: WritePicture,
    deepir_index: Command,
) -> None:
    folder, path = tmp_path / "things", tmp_path / "i.usearch"
    for colour in ("red", "green", "blue"):
        write_picture(folder / colour / "1.png", picture(colour, rng))
    hint = "most labels have one, so that nothing tells how alike two are"
    result = deepir_index("build", path, folder, "--model", model)
    assert hint in result.stderr
    assert f"deepir-index calibrate {path} --unknown DIR" in result.stderr
    with_unknown = deepir_index("build", path, folder, "--model", model, "--unknown", folder / "blue")
    assert (with_unknown.exit_code, hint in with_unknown.stderr) == (0, False)


def test_build_does_not_speak_of_single_views_where_labels_have_several(
    tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command
) -> None:
    result = deepir_index("build", tmp_path / "i.usearch", catalogue, "--model", model)
    assert "most labels have one" not in result.stderr


def test_a_pattern_takes_the_label_from_the_file_name(
    tmp_path: Path,
    model: Path,
    rng: np.random.Generator,
    picture: Picture,
    write_picture: WritePicture,
    deepir_index: Command,
) -> None:
    for name in ("cup__1.png", "cup__2.png", "sub/plate__1.png"):
        write_picture(tmp_path / "flat" / name, picture("red", rng))
    words = ("build", tmp_path / "i.usearch", tmp_path / "flat", "--model", model, "--label-pattern")
    assert deepir_index(*words, "^(.+?)__").exit_code == 0
    assert Index.open(tmp_path / "i.usearch").labels == {"cup": 2, "plate": 1}
    for pattern, exit_code, part in (("^(.+?)#", 3, "cup__1.png"), ("(", 2, "regular"), ("cup", 2, "no group")):
        result = deepir_index(*words, pattern)
        assert (result.exit_code, part in result.stderr) == (exit_code, True), result.stderr


def test_an_unreadable_picture_stops_the_build_and_writes_nothing(
    tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command
) -> None:
    (catalogue / "red" / "broken.jpg").write_bytes(b"not a picture")
    words = ("build", tmp_path / "shop.usearch", catalogue, "--model", model)
    result = deepir_index(*words)
    assert result.exit_code == 3
    assert "broken.jpg" in result.stderr
    assert "--skip-unreadable" in result.stderr
    assert not list(tmp_path.glob("*.usearch*"))
    result = deepir_index(*words, "--skip-unreadable")
    assert result.exit_code == 0
    assert "left out 1 pictures as unreadable" in result.stderr
    assert Index.open(tmp_path / "shop.usearch").labels["red"] == 3


def test_a_folder_of_unreadable_pictures_makes_no_index(tmp_path: Path, model: Path, deepir_index: Command) -> None:
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.jpg").write_bytes(b"junk")
    result = deepir_index("build", tmp_path / "i.usearch", tmp_path / "junk", "--model", model, "--skip-unreadable")
    assert (result.exit_code, (tmp_path / "i.usearch").exists()) == (3, False)
    assert "none of the 1 pictures" in result.stderr


def test_build_replaces_an_index_and_keeps_the_old_one(
    shop: Path, catalogue: Path, model: Path, deepir_index: Command
) -> None:
    old = shop.read_bytes()
    assert deepir_index("build", shop, catalogue / "red", "--model", model).exit_code == 0
    assert shop.with_name("shop.usearch.bak").read_bytes() == old
    assert Index.open(shop).labels == {"0": 1, "1": 1, "2": 1}


def test_added_pictures_are_found_at_once(
    shop: Path,
    tmp_path: Path,
    rng: np.random.Generator,
    write_picture: WritePicture,
    deepir_index: Command,
) -> None:
    stripes = np.zeros((48, 64, 3), np.uint8)
    stripes[::8] = 255
    path = write_picture(tmp_path / "stripes.png", stripes)
    result = deepir_index("add", shop, "stripes", path)
    assert result.exit_code == 0, result.stderr
    assert f"next: deepir-index query {shop} {path}" in result.stderr
    answer = json.loads(deepir_index("query", shop, path, "--json").stdout)
    assert (answer["status"], answer["label"]) == ("match", "stripes")


def test_remove_says_that_the_backup_still_holds_the_label(shop: Path, deepir_index: Command) -> None:
    result = deepir_index("remove", shop, "red")
    assert result.exit_code == 0
    assert "removed 3 items of red" in result.stderr
    assert "shop.usearch.bak" in result.stderr
    assert "red" not in Index.open(shop).labels
    assert deepir_index("remove", shop, "red").exit_code == 3


def test_info_tells_people_and_programs_the_same(shop: Path, model: Path, deepir_index: Command) -> None:
    facts = json.loads(deepir_index("info", shop, "--json").stdout)
    assert (facts["items"], facts["labels"]["red"], facts["generation"], facts["dim"]) == (12, 3, 1, 8)
    assert facts["model"]["found"] == str(model)
    text = deepir_index("info", shop).stdout
    assert facts["model"]["fingerprint"] in text
    assert "12 of 4 labels" in text


def test_query_lists_the_best_labels(shop: Path, catalogue: Path, deepir_index: Command) -> None:
    picture = catalogue / "green" / "0.png"
    result = deepir_index("query", shop, picture, "--topk", 2)
    assert result.stdout.startswith("green  (similarity 1.000")
    assert len(result.stdout.splitlines()) == 3
    unknown = deepir_index("query", shop, picture, "--json", "--threshold", "1.0")
    assert json.loads(unknown.stdout)["status"] in {"match", "unknown"}


def test_a_query_below_the_threshold_is_unknown(
    shop: Path,
    tmp_path: Path,
    rng: np.random.Generator,
    picture: Picture,
    write_picture: WritePicture,
    deepir_index: Command,
) -> None:
    path = write_picture(tmp_path / "new.png", picture("red", rng))
    answer = json.loads(deepir_index("query", shop, path, "--json", "--threshold", "0.99999").stdout)
    assert (answer["status"], answer["label"], answer["topk"][0][0]) == ("unknown", None, "red")


def test_every_bad_input_is_one_sentence_with_its_exit_code(
    shop: Path,
    tmp_path: Path,
    catalogue: Path,
    write_model: Callable[..., Path],
    make_card: Callable[..., ModelCard],
    deepir_index: Command,
) -> None:
    model = tmp_path / "tiny.onnx"
    other = write_model(tmp_path / "other.onnx", card=make_card("b"), seed=2)
    nan = write_model(tmp_path / "nan.onnx", card=make_card(), factor=float("nan"))
    picture = catalogue / "red" / "0.png"
    out = tmp_path / "new.usearch"
    torn = tmp_path / "torn.usearch"
    torn.write_bytes(shop.read_bytes()[:100])
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("build", out, tmp_path / "nowhere", "--model", model), 3, "no such folder"),
        (("build", out, catalogue, "--model", tmp_path / "no.onnx"), 3, "no such model"),
        (("build", out, catalogue, "--model", nan), 3, "NaN"),
        (("build", out, catalogue, "--model", model, "--far", 2), 2, "got 2.0"),
        (("build", catalogue, catalogue, "--model", model), 3, "it is a folder"),
        (("build", tmp_path / "no" / "i.usearch", catalogue, "--model", model), 3, "does not exist"),
        (("add", shop, "red", tmp_path / "no.jpg"), 3, "no.jpg"),
        (("add", shop, " ", picture), 3, "empty part"),
        (("add", shop, "red", picture, "--model", other), 8, "deepir-index rebuild"),
        (("add", torn, "red", picture), 8, "no deepir footer"),
        (("remove", shop, "purple"), 3, "blue, green, red, yellow"),
        (("info", tmp_path / "no.usearch"), 3, "cannot read the index"),
        (("info", picture), 8, "is not a usable index"),
        (("query", shop, model), 3, "cannot decode"),
        (("query", shop, picture, "--model", other), 8, "deepir-index rebuild"),
    ]
    before = shop.read_bytes()
    for words, exit_code, part in cases:
        result = deepir_index(*words)
        assert (result.exit_code, result.stdout) == (exit_code, ""), (words, result.output)
        assert result.stderr.startswith("error: "), words
        assert result.stderr.count("\n") == 1, words
        assert part in result.stderr, words
    assert shop.read_bytes() == before
    assert not out.exists()


def test_a_blank_picture_is_refused_by_name(
    tmp_path: Path,
    write_model: Callable[..., Path],
    make_card: Callable[..., ModelCard],
    write_picture: WritePicture,
    deepir_index: Command,
) -> None:
    # weights of nothing: every picture comes out without direction
    model = write_model(tmp_path / "zero.onnx", card=make_card(), factor=0.0)
    write_picture(tmp_path / "things" / "blank.png", np.zeros((40, 40, 3), np.uint8))
    result = deepir_index("build", tmp_path / "i.usearch", tmp_path / "things", "--model", model)
    assert result.exit_code == 3
    assert "blank.png has length 0" in result.stderr


def test_a_whitened_build_says_so_and_warns_without_photographs(
    tmp_path: Path, model: Path, catalogue: Path, shop: Path, deepir_index: Command
) -> None:
    path = tmp_path / "white.usearch"
    result = deepir_index("build", path, catalogue, "--model", model, "--whiten")
    assert result.exit_code == 0, result.stderr
    assert "whitening: 8 to 8 values, power 0.25, fitted on 12 references, no photographs" in result.stderr
    assert "warning: fitted on the references alone" in result.stderr
    facts = json.loads(deepir_index("info", path, "--json").stdout)
    assert facts["whitening"] == {"channels": 8, "dim": 8, "power": 0.25, "pictures": [12], "kind": "whitening"}
    assert "whitening  8 to 8 values, power 0.25" in deepir_index("info", path).stdout
    assert "whitening" not in deepir_index("info", shop).stdout
    assert json.loads(deepir_index("info", shop, "--json").stdout)["whitening"] is None


def test_photographs_take_part_in_the_whitening_and_not_in_the_index(
    tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command
) -> None:
    path = tmp_path / "white.usearch"
    photographs = ("--whiten-images", catalogue / "red", "--whiten-images", catalogue / "blue")
    options = ("--dim", 3, "--whiten-power", 0.4)
    result = deepir_index("build", path, catalogue / "green", "--model", model, *photographs, *options)
    assert result.exit_code == 0, result.stderr
    assert "8 to 3 values, power 0.4, fitted on 3 references and 3+3 photographs" in result.stderr
    assert "warning: fitted on" not in result.stderr
    index = Index.open(path)
    assert (index.labels, index.dim) == ({"0": 1, "1": 1, "2": 1}, 3)


def test_a_whitened_index_takes_items_and_answers_queries(
    tmp_path: Path, model: Path, catalogue: Path, write_picture: WritePicture, deepir_index: Command
) -> None:
    path, stripes = tmp_path / "white.usearch", np.zeros((48, 64, 3), np.uint8)
    stripes[::8] = 255
    picture = write_picture(tmp_path / "stripes.png", stripes)
    assert deepir_index("build", path, catalogue, "--model", model, "--whiten").exit_code == 0
    assert deepir_index("add", path, "stripes", picture).exit_code == 0
    answer = json.loads(deepir_index("query", path, picture, "--json").stdout)
    assert (answer["status"], answer["label"], round(answer["similarity"], 2)) == ("match", "stripes", 1)
    assert deepir_index("query", path, catalogue / "green" / "1.png").stdout.startswith("green  (similarity 1.000")


def test_whitening_that_cannot_be_is_one_sentence_with_its_exit_code(
    tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command
) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.jpg").write_bytes(b"torn")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("--whiten-power", 0.1), 2, "--whiten-images DIR with it"),
        (("--whiten", "--dim", 9), 3, "fewer than 9"),
        (("--whiten", "--dim", 0), 2, "got 0"),
        (("--dim", 9), 3, "keep fewer (--dim)"),
        (("--dim", 9, "--reduce", "prefix"), 3, "keep fewer (--dim)"),
        (("--thumbnails", 8), 2, "32 pixels or more"),
        (("--metadata", "[1]"), 2, "a JSON object"),
        (("--margin", 2), 2, "got 2.0"),
        (("--whiten", "--whiten-power", 0.7), 2, "got 0.7"),
        (("--whiten-images", tmp_path / "nowhere"), 3, "no such folder"),
        (("--whiten-images", tmp_path / "torn"), 3, "--skip-unreadable"),
        (("--whiten-images", tmp_path / "torn", "--skip-unreadable"), 3, "none of the 1 pictures"),
    ]
    for words, exit_code, part in cases:
        result = deepir_index("build", tmp_path / "i.usearch", catalogue, "--model", model, *words)
        assert (result.exit_code, result.stderr.count("\n"), part in result.stderr) == (exit_code, 1, True), (
            result.stderr
        )
    assert not list(tmp_path.glob("*.usearch*"))
