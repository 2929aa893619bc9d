"""A model file says which model it holds, without being loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deepir.card import ModelCard
from deepir.runtime.fingerprint import read_fingerprint

CARD = Path(__file__).parents[1] / "data" / "engine.json"


def test_an_onnx_file_tells_its_fingerprint(model: Path, make_card: Callable[..., ModelCard]) -> None:
    assert read_fingerprint(model) == make_card().spec.fingerprint


def test_an_engine_tells_that_of_its_sidecar(tmp_path: Path) -> None:
    (tmp_path / "shop.engine.json").write_bytes(CARD.read_bytes())
    assert read_fingerprint(tmp_path / "shop.engine") == read_fingerprint(CARD)
    assert read_fingerprint(CARD) is not None


@pytest.mark.parametrize("content", [b"", b"no card", b'"fingerprint": "cut short'])
def test_a_file_without_a_card_tells_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert read_fingerprint(tmp_path / "m.onnx") is None


def test_a_missing_file_tells_none(tmp_path: Path) -> None:
    assert read_fingerprint(tmp_path / "m.onnx") is None
