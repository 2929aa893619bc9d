"""Every view at or above a similarity: exactly those, and a line drawn in the widest gap."""

import json
from pathlib import Path

import numpy as np
import pytest

from deepir.image import read_image
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.label_search import Hit
from deepir.runtime.near import hits_at_least


def hits(*similarities: float) -> list[Hit]:
    return [Hit(key, f"label {key}", f"{key}.png", similarity) for key, similarity in enumerate(similarities)]


def test_exactly_the_views_at_or_above_the_similarity_are_given() -> None:
    found, threshold = hits_at_least(hits(0.9, 0.7, 0.699, 0.1), 0.7)
    assert ([hit.key for hit in found], threshold) == ([0, 1], 0.7)


def test_the_line_is_drawn_in_the_widest_gap() -> None:
    found, threshold = hits_at_least(hits(0.95, 0.9, 0.85, 0.4, 0.35), None)
    assert [hit.key for hit in found] == [0, 1, 2]
    assert threshold == pytest.approx(0.625)


@pytest.fixture
def shop(tmp_path: Path, model: Path, catalogue: Path, deepir_index) -> Path:
    path = tmp_path / "shop.usearch"
    assert deepir_index("build", path, catalogue, "--model", model).exit_code == 0
    return path


def test_the_command_lists_what_a_search_of_everything_has_above_the_line(
    shop: Path, model: Path, catalogue: Path, deepir_index
) -> None:
    image = sorted(catalogue.rglob("*.png"))[0]
    index = Index.open(shop)
    with Extractor.open(model) as extractor:
        everything = index.search(extractor.describe([read_image(image)])[0], len(index))
    least = float(np.median([hit.similarity for hit in everything]))
    facts = json.loads(deepir_index("near", shop, image, "--at-least", least, "--json").stdout)
    expected = [hit.view for hit in everything if np.float32(hit.similarity) >= np.float32(least)]
    assert [view["view"] for view in facts["views"]] == expected
    assert 0 < len(expected) < len(everything)


def test_the_command_draws_the_line_itself(shop: Path, catalogue: Path, deepir_index) -> None:
    result = deepir_index("near", shop, sorted(catalogue.rglob("*.png"))[0])
    assert result.exit_code == 0
    assert "views at 0." in result.stderr


@pytest.mark.parametrize("least", ["high", "1.5", "nan"])
def test_a_similarity_that_cannot_be_is_refused(shop: Path, catalogue: Path, deepir_index, least: str) -> None:
    result = deepir_index("near", shop, sorted(catalogue.rglob("*.png"))[0], "--at-least", least)
    assert (result.exit_code, least in result.stderr) == (2, True)


def test_an_index_of_one_view_has_no_gap(tmp_path: Path, model: Path, catalogue: Path, deepir_index) -> None:
    image = sorted(catalogue.rglob("*.png"))[0]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / image.name).write_bytes(image.read_bytes())
    assert deepir_index("build", tmp_path / "one.usearch", tmp_path / "one", "--model", model).exit_code == 0
    result = deepir_index("near", tmp_path / "one.usearch", image)
    assert (result.exit_code, "--at-least 0.7" in result.stderr) == (3, True)
