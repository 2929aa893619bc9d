"""An index for another model, made of the pictures that the one before was made of."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from deepir.card import ModelCard
from deepir.image import Image, read_image
from deepir.runtime import Extractor, Index, Recogniser
from deepir.runtime.pictures import THUMBNAIL, thumbnails_of

Texture = Callable[..., Image]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]

CODES = 0.01
"""Of a value of a descriptor: what rounding to 8 bits may cost."""


@pytest.fixture
def products(tmp_path: Path, texture: Texture, write_picture: WritePicture) -> Path:
    for number, label in enumerate(("tea/green", "tea/black", "salt")):
        for view in range(3):
            write_picture(tmp_path / "products" / label / f"{view}.png", texture(10 * number + view))
    return tmp_path / "products"


@pytest.fixture
def old(tmp_path: Path, model: Path, products: Path, deepir_index: Command) -> Path:
    """An index with thumbnails, metadata, a margin and a wish for false accepts, and a label that came later."""
    path = tmp_path / "i.usearch"
    words = ("--model", model, "--thumbnails", 64, "--margin", 0.07, "--far", 0.2, "--metadata", '{"price": 2}')
    assert deepir_index("build", path, products, *words, "--dtype", "f16").exit_code == 0
    assert deepir_index("add", path, "salt", products / "tea" / "black" / "0.png", "--keep-all").exit_code == 0
    return path


@pytest.fixture
def new_model(tmp_path: Path, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]) -> Path:
    return write_model(tmp_path / "new.onnx", card=make_card("new"), seed=2)


def told(path: Path) -> list[tuple[str, str, object]]:
    """What an index knows of its views, in order."""
    return [(item.label, item.source, dict(item.metadata)) for item in Index.open(path).items()]


def described(path: Path, model: Path, pictures: list[Path]) -> None:
    """The index holds what the model gives for these pictures."""
    with Extractor.open(model) as extractor:
        expected = extractor.describe_files(pictures)
    np.testing.assert_allclose(Index.open(path).descriptors(), expected, atol=CODES)


def test_all_that_is_known_of_the_views_stays_and_the_descriptors_are_the_new_models(
    old: Path, new_model: Path, deepir_index: Command
) -> None:
    before, footer = told(old), Index.open(old).footer
    result = deepir_index("rebuild", old, "--model", new_model)
    assert result.exit_code == 0, result.stderr
    index = Index.open(old)
    assert told(old) == before
    assert len(before) == 10
    assert (index.margin, index.footer.far, index.footer.codes.dtype) == (0.07, 0.2, "f16")
    assert (index.footer.thumbnails, footer.thumbnails) == (64, 64)
    assert index.model.absolute == str(new_model)
    described(old, new_model, [old.parent / source for _, source, _ in before])


def test_the_index_before_stays_as_bak_for_its_own_model(
    old: Path, model: Path, new_model: Path, deepir_index: Command
) -> None:
    before = old.read_bytes()
    assert deepir_index("rebuild", old, "--model", new_model).exit_code == 0
    backup = old.with_name("i.usearch.bak")
    assert backup.read_bytes() == before
    Recogniser.open(backup, model).close()


def test_the_model_before_is_refused_from_then_on(
    old: Path, model: Path, new_model: Path, products: Path, deepir_index: Command
) -> None:
    assert deepir_index("rebuild", old, "--model", new_model).exit_code == 0
    picture = products / "salt" / "0.png"
    for words in (("query", old, picture), ("add", old, "salt", picture)):
        assert deepir_index(*words).exit_code == 0
        result = deepir_index(*words, "--model", model)
        assert (result.exit_code, "use that model" in result.stderr) == (8, True)


def test_originals_come_before_thumbnails(
    old: Path, new_model: Path, products: Path, texture: Texture, write_picture: WritePicture, deepir_index: Command
) -> None:
    # the original was taken anew: what it shows now counts, not the copy of what it showed
    write_picture(products / "salt" / "0.png", texture(99))
    (products / "salt" / "1.png").unlink()
    names = {item.source: item.metadata[THUMBNAIL] for item in Index.open(old).items()}
    assert deepir_index("rebuild", old, "--model", new_model).exit_code == 0
    pictures = [old.parent / source for _, source, _ in told(old)]
    assert sum(not path.exists() for path in pictures) == 1
    described(
        old,
        new_model,
        [path if path.exists() else thumbnails_of(old) / names["products/salt/1.png"] for path in pictures],
    )


def test_a_moved_index_is_made_again_from_its_thumbnails_alone(
    old: Path, tmp_path: Path, new_model: Path, deepir_index: Command
) -> None:
    robot = tmp_path / "robot"
    robot.mkdir()
    moved = old.rename(robot / old.name)
    thumbnails_of(old).rename(thumbnails_of(moved))
    assert deepir_index("rebuild", moved, "--model", new_model).exit_code == 0
    described(
        moved, new_model, [thumbnails_of(moved) / str(item.metadata[THUMBNAIL]) for item in Index.open(moved).items()]
    )


def test_views_without_any_picture_are_counted_and_refused_unless_they_may_be_left_out(
    tmp_path: Path, model: Path, new_model: Path, products: Path, deepir_index: Command
) -> None:
    path = tmp_path / "i.usearch"
    assert deepir_index("build", path, products, "--model", model).exit_code == 0
    before = told(path)
    (products / "salt" / "1.png").unlink()
    (products / "tea" / "black" / "0.png").unlink()
    refused = deepir_index("rebuild", path, "--model", new_model)
    assert (refused.exit_code, refused.stderr.count("\n")) == (3, 1)
    assert "of 9 views 2 have neither their picture nor a thumbnail" in refused.stderr
    assert "products/salt/1.png of salt" in refused.stderr
    assert Index.open(path).model.absolute == str(model)
    result = deepir_index("rebuild", path, "--model", new_model, "--skip-missing", "--json")
    assert json.loads(result.stdout) == {"path": str(path), "items": 7, "labels": 3, "missing": 2}
    assert "left out 2 views" in result.stderr
    lost = {"products/salt/1.png", "products/tea/black/0.png"}
    assert told(path) == [one for one in before if one[1] not in lost]


def test_with_all_pictures_gone_nothing_is_made(
    tmp_path: Path, model: Path, new_model: Path, products: Path, deepir_index: Command
) -> None:
    path = tmp_path / "i.usearch"
    assert deepir_index("build", path, products, "--model", model).exit_code == 0
    products.rename(tmp_path / "elsewhere")
    before = path.read_bytes()
    result = deepir_index("rebuild", path, "--model", new_model, "--skip-missing")
    assert (result.exit_code, "of 9 views 9" in result.stderr) == (3, True)
    assert path.read_bytes() == before


def test_an_index_elsewhere_names_the_pictures_from_there_and_has_its_own_thumbnails(
    old: Path, tmp_path: Path, new_model: Path, products: Path, deepir_index: Command
) -> None:
    before = told(old)
    robot = tmp_path / "robot"
    robot.mkdir()
    assert deepir_index("rebuild", old, "--model", new_model, "-o", robot / "new.usearch").exit_code == 0
    assert told(old) == before
    assert not old.with_name("i.usearch.bak.bak").exists()
    new = told(robot / "new.usearch")
    assert [source for _, source, _ in new] == [str(tmp_path / source) for _, source, _ in before]
    assert [(label, metadata) for label, _, metadata in new] == [(label, metadata) for label, _, metadata in before]
    products.rename(tmp_path / "lost")
    for item in Index.open(robot / "new.usearch").items():
        assert read_image(thumbnails_of(robot / "new.usearch") / str(item.metadata[THUMBNAIL])).shape == (48, 64, 3)
    assert deepir_index("rebuild", robot / "new.usearch", "--model", new_model).exit_code == 0


def test_an_index_elsewhere_is_made_while_the_old_one_is_being_changed(
    old: Path, tmp_path: Path, new_model: Path, deepir_index: Command
) -> None:
    with Index.open(old, write=True):
        assert deepir_index("rebuild", old, "--model", new_model, "-o", tmp_path / "new.usearch").exit_code == 0


def test_an_empty_index_becomes_an_empty_index(
    tmp_path: Path, model: Path, new_model: Path, make_card: Callable[..., ModelCard], deepir_index: Command
) -> None:
    Index.create(make_card(), model).save(tmp_path / "i.usearch")
    result = deepir_index("rebuild", tmp_path / "i.usearch", "--model", new_model)
    assert result.exit_code == 0, result.stderr
    assert (len(Index.open(tmp_path / "i.usearch")), Index.open(tmp_path / "i.usearch").generation) == (0, 1)


def test_a_map_is_fitted_anew_when_asked_for_and_its_loss_is_told_when_not(
    tmp_path: Path, model: Path, new_model: Path, products: Path, deepir_index: Command
) -> None:
    path = tmp_path / "i.usearch"
    assert deepir_index("build", path, products, "--model", model, "--dim", 4).exit_code == 0
    result = deepir_index("rebuild", path, "--model", new_model, "--dim", 3, "--reduce", "prefix")
    assert result.exit_code == 0, result.stderr
    assert "was not taken over" not in result.stderr
    whitening = Index.open(path).whitening
    assert whitening is not None
    assert (whitening.kind, whitening.dim) == ("prefix", 3)
    result = deepir_index("rebuild", path, "--model", new_model)
    assert "warning: the whitening of the index before (8 to 3 values by prefix" in result.stderr
    assert (Index.open(path).whitening, Index.open(path).dim) == (None, 8)


def test_a_threshold_from_unknown_things_must_be_learnt_again(
    tmp_path: Path, model: Path, new_model: Path, products: Path, catalogue: Path, deepir_index: Command
) -> None:
    path = tmp_path / "i.usearch"
    assert deepir_index("build", path, products, "--model", model, "--unknown", catalogue).exit_code == 0
    result = deepir_index("rebuild", path, "--model", new_model)
    assert "warning: the threshold came from unknown things or by hand" in result.stderr
    threshold = Index.open(path).threshold
    assert threshold is not None
    assert threshold.basis == "views"


@pytest.mark.parametrize("words", [("--model", "no.onnx"), ("--model", "torn.onnx")])
def test_a_model_that_cannot_be_read_leaves_the_index_alone(
    words: tuple[str, str], old: Path, tmp_path: Path, deepir_index: Command
) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"nonsense")
    before = old.read_bytes()
    result = deepir_index("rebuild", old, words[0], tmp_path / words[1])
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert old.read_bytes() == before
