"""A small model as ONNX, its card, and pictures: what calibration begins with."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from deepir.calib.onnx_file import read_card
from deepir.card import ModelCard
from deepir.distill.checkpoint import Model
from deepir.export.graph import build_onnx
from deepir.image import list_images


@pytest.fixture(scope="module")
def master(make_model: Callable[..., Model]) -> onnx.ModelProto:
    return build_onnx(make_model(dim=6))


@pytest.fixture(scope="module")
def card(master: onnx.ModelProto) -> ModelCard:
    return read_card(master)


@pytest.fixture(scope="module")
def paths(pictures: Path) -> tuple[Path, ...]:
    return tuple(list_images(pictures))
