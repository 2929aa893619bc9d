"""A tiny model that tells colours apart, pictures for it, and an index of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepir.card import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelCard
from deepir.image import Image
from deepir.runtime.cli import main as run_main
from deepir.runtime.index_cli import main as index_main
from deepir.spec import ModelSpec

SIZE = 32
DIM = 8

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 30, 30),
    "green": (30, 220, 40),
    "blue": (40, 40, 235),
    "yellow": (235, 225, 30),
}


def make_card(weights: str = "a") -> ModelCard:
    spec = ModelSpec(
        backbone="test:conv",
        sizes=((SIZE, SIZE),),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        stride=1,
        channels=DIM,
        dim=DIM,
        weights=weights,
    )
    return ModelCard(spec)


def write_model(path: Path, *, card: ModelCard | None, seed: int = 1, factor: float = 1.0) -> Path:
    """Conv 3 -> 8, global max, L2: a real ONNX file in a few hundred bytes."""
    rng = np.random.default_rng(seed)
    kernel = (factor * rng.normal(size=(DIM, 3, 3, 3))).astype(np.float32)
    nodes = [
        helper.make_node("Conv", [INPUT_NAME, "kernel"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalMaxPool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("ReduceL2", ["flat"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "floor"], ["divisor"]),
        helper.make_node("Div", ["flat", "divisor"], [OUTPUT_NAME]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", DIM])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.float32(1e-6), "floor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if card is not None:
        helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.save(model, str(path))
    return path


def picture(colour: str, rng: np.random.Generator, size: tuple[int, int] = (48, 64)) -> Image:
    noise = rng.normal(0, 6, (*size, 3))
    pixels: NDArray[np.uint8] = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    return pixels


def write_picture(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))
    return path


def write_video(path: Path, images: Sequence[Image], fps: float = 10.0) -> Path:
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for image in images:
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return path


def unit_rows(rng: np.random.Generator, count: int, dim: int = DIM) -> NDArray[np.float32]:
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.fixture(scope="session", name="make_card")
def give_make_card() -> Callable[..., ModelCard]:
    return make_card


@pytest.fixture(scope="session", name="write_model")
def give_write_model() -> Callable[..., Path]:
    return write_model


@pytest.fixture(scope="session", name="picture")
def give_picture() -> Callable[..., Image]:
    return picture


@pytest.fixture(scope="session", name="write_picture")
def give_write_picture() -> Callable[[Path, Image], Path]:
    return write_picture


@pytest.fixture(scope="session", name="unit_rows")
def give_unit_rows() -> Callable[..., NDArray[np.float32]]:
    return unit_rows


@pytest.fixture(scope="session", name="write_video")
def give_write_video() -> Callable[..., Path]:
    return write_video


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.onnx", card=make_card())


@pytest.fixture
def catalogue(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "catalogue"
    for colour in COLOURS:
        for number in range(3):
            write_picture(folder / colour / f"{number}.png", picture(colour, rng))
    return folder


Command = Callable[..., Result]


@pytest.fixture
def deepir_run() -> Command:
    return lambda *words: CliRunner().invoke(run_main, [str(word) for word in words])


@pytest.fixture
def deepir_index() -> Command:
    return lambda *words: CliRunner().invoke(index_main, [str(word) for word in words])


@pytest.fixture
def shop(tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command) -> Path:
    path = tmp_path / "shop.usearch"
    result = deepir_index("build", path, catalogue, "--model", model)
    assert result.exit_code == 0, result.output
    return path
