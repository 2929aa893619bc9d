"""Images and files to descriptors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepir.errors import InputError, OptionError, ShapeError
from deepir.image import Image, prepare
from deepir.runtime.extractor import Extractor

Picture = Callable[..., Image]


def test_the_batch_size_makes_no_difference(model: Path, rng: np.random.Generator, picture: Picture) -> None:
    images = [picture(colour, rng) for colour in ("red", "green", "blue", "red", "yellow")]
    with Extractor.open(model, batch_size=2) as pairs, Extractor.open(model, batch_size=8) as together:
        np.testing.assert_allclose(pairs.describe(images), together.describe(images), atol=1e-6)


def test_each_image_is_prepared_as_the_spec_says(model: Path, rng: np.random.Generator, picture: Picture) -> None:
    image = picture("red", rng, (100, 37))
    with Extractor.open(model) as extractor:
        expected = extractor.backend.run(prepare(image, extractor.spec))
        np.testing.assert_array_equal(extractor.describe([image]), expected)


def test_files_are_described_like_their_images(
    model: Path, tmp_path: Path, rng: np.random.Generator, picture: Picture, write_picture: Callable[..., Path]
) -> None:
    images = [picture(colour, rng) for colour in ("red", "green", "blue")]
    paths = [write_picture(tmp_path / f"{number}.png", image) for number, image in enumerate(images)]
    with Extractor.open(model, batch_size=2) as extractor:
        np.testing.assert_array_equal(extractor.describe_files(paths), extractor.describe(images))


def test_no_images_give_no_descriptors(model: Path) -> None:
    with Extractor.open(model) as extractor:
        assert extractor.describe([]).shape == (0, 8)


def test_a_file_that_is_no_picture_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with Extractor.open(model) as extractor, pytest.raises(InputError, match=r"broken\.jpg \(13 bytes\)"):
        extractor.describe_files([tmp_path / "broken.jpg"])


def test_a_float_image_is_refused(model: Path) -> None:
    with Extractor.open(model) as extractor, pytest.raises(ShapeError, match="float64"):
        extractor.describe([np.zeros((8, 8, 3))])  # type: ignore[list-item]


def test_a_batch_without_images_is_refused(model: Path) -> None:
    with pytest.raises(OptionError, match="got 0"):
        Extractor.open(model, batch_size=0)
