"""What describes the models of a search: OpenVINO only after it agreed with ONNX Runtime once, for all of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deepir.calib import programs
from deepir.calib.calibrate import CalibrationConfig, calibrate
from deepir.calib.derive import plain_int8
from deepir.calib.images import CalibrationSet, ChosenImages
from deepir.calib.onnx_file import describe, prepared, read_card
from deepir.calib.programs import TrialDescriber
from deepir.card import ModelCard
from deepir.descriptors import Descriptors, normalise
from deepir.runtime.openvino_refusal import NotRunError


class FakeOpenVino:
    """Stands in for OpenVINO: ONNX Runtime's descriptors, turned away from them by noise; counts its pictures."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.asked: list[int] = []

    def __call__(self, proto: Any, paths: Sequence[Path], hint: str | None = None) -> tuple[str, Descriptors]:
        self.asked.append(len(paths))
        exact_nd = describe(proto, read_card(proto), paths)
        noise_nd = np.random.default_rng(len(self.asked)).normal(0, self.noise, exact_nd.shape)
        return "OpenVINO", normalise((exact_nd + noise_nd).astype(np.float32))


@pytest.fixture(scope="module")
def int8(master: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...]) -> onnx.ModelProto:
    return plain_int8(master, lambda: prepared(paths[:8], card))


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], FakeOpenVino]:
    def install(noise: float) -> FakeOpenVino:
        fake = FakeOpenVino(noise)
        monkeypatch.setattr(programs, "openvino_runs", lambda: True)
        monkeypatch.setattr(programs, "describe_in_openvino", fake)
        return fake

    return install


def test_an_openvino_that_agrees_describes_all_models(
    int8: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...], openvino: Callable[[float], FakeOpenVino]
) -> None:
    fake, told = openvino(1e-4), list[str]()
    describe_trial = TrialDescriber(paths, told.append)
    for asked in (1, 2, 3):
        found_nd = describe_trial(int8, card)
        assert not np.array_equal(found_nd, describe(int8, card, paths))
        np.testing.assert_allclose(found_nd, describe(int8, card, paths), atol=1e-2)
        assert fake.asked == [len(paths)] * asked
    assert told == []


def test_an_openvino_that_differs_once_describes_no_model_and_it_is_said_once(
    int8: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...], openvino: Callable[[float], FakeOpenVino]
) -> None:
    fake, told = openvino(0.3), list[str]()
    describe_trial = TrialDescriber(paths, told.append)
    for _ in range(3):
        np.testing.assert_array_equal(describe_trial(int8, card), describe(int8, card, paths))
    assert fake.asked == [len(paths)]
    assert [line.partition(", cosine min ")[0] for line in told] == [
        "trials run in ONNX Runtime, not in OpenVINO: its descriptors differ from ONNX Runtime's"
    ]


def test_a_model_that_openvino_cannot_run_ends_its_use(
    int8: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> tuple[str, Descriptors]:
        raise NotRunError(Path("model.onnx"), "no such operator")

    told: list[str] = []
    monkeypatch.setattr(programs, "openvino_runs", lambda: True)
    monkeypatch.setattr(programs, "describe_in_openvino", refuse)
    describe_trial = TrialDescriber(paths, told.append)
    for _ in range(2):
        np.testing.assert_array_equal(describe_trial(int8, card), describe(int8, card, paths))
    assert told == ["trials run in ONNX Runtime, not in OpenVINO: no such operator"]


def test_where_another_program_is_named_openvino_is_not_asked(
    int8: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "describe_in_openvino", lambda *_: pytest.fail("asked"))
    np.testing.assert_array_equal(TrialDescriber(paths)(int8, card), describe(int8, card, paths))


def test_a_calibration_beside_an_openvino_that_errs_comes_to_what_it_comes_to_without(
    master: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...], openvino: Callable[[float], FakeOpenVino]
) -> None:
    images = CalibrationSet(paths[::2], paths[1::2])
    chosen = ChosenImages(images, describe(master, card, images.judge))
    config = CalibrationConfig(keep=1)
    alone = calibrate(master, card, chosen, config)
    openvino(0.3)
    beside = calibrate(master, card, chosen, config)
    assert beside.trials == alone.trials
    assert beside.damage == alone.damage
    assert beside.recipe == alone.recipe
