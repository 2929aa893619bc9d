"""The record of a calibration gives the same INT8 file again, and is refused where it does not belong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deepir.calib.calibrate import CalibrationConfig, apply_record, calibrate_file
from deepir.calib.onnx_file import read_card, read_onnx, write_onnx
from deepir.calib.record import record_path
from deepir.distill.checkpoint import Model
from deepir.errors import InputError
from deepir.export.graph import build_onnx
from deepir.spec import Numerics

MakeModel = Callable[..., Model]


@pytest.fixture(scope="module")
def calibrated(make_model: MakeModel, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The FP32 file and the INT8 file that was calibrated from it."""
    folder = tmp_path_factory.mktemp("calibrated")
    master, int8 = folder / "model.onnx", folder / "model.int8.onnx"
    write_onnx(build_onnx(make_model(dim=6)), master)
    calibrate_file(master, [pictures], int8, CalibrationConfig(), lambda _: None)
    return master, int8


def changed(record: Path, folder: Path, **changes: object) -> Path:
    path = folder / "changed.calib.json"
    path.write_text(json.dumps({**json.loads(record.read_text()), **changes}))
    return path


def test_the_record_gives_the_same_file_again_without_the_pictures(
    calibrated: tuple[Path, Path], tmp_path: Path
) -> None:
    master, int8 = calibrated
    again = tmp_path / "again.onnx"
    judged = apply_record(master, record_path(int8), again, lambda _: None)
    assert again.read_bytes() == int8.read_bytes()
    assert len(judged) == 12
    assert record_path(again).read_text() == record_path(int8).read_text()
    card = read_card(read_onnx(again))
    assert (card.numerics, card.gate) == (Numerics.INT8, read_card(read_onnx(int8)).gate)


def test_a_record_of_another_file_is_refused_with_both_names(
    calibrated: tuple[Path, Path], make_model: MakeModel, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    write_onnx(build_onnx(make_model(dim=6, seed=1)), other)
    with pytest.raises(InputError, match=r"made of another file \(model\.onnx.* than .*other\.onnx: calibrate again"):
        apply_record(other, record_path(calibrated[1]), tmp_path / "out.onnx", lambda _: None)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "deepir.calib/2"},
        {"ranges": None},
        {"ranges": {"images": "wide"}},
        {"ranges": {"images": float("nan")}},
        {"ranges": {"images": -1}},
        {"verdict": {"passed": True}},
        {"judged_on": 3},
    ],
)
def test_a_damaged_record_is_refused(calibrated: tuple[Path, Path], tmp_path: Path, changes: dict) -> None:
    record = changed(record_path(calibrated[1]), tmp_path, **changes)
    with pytest.raises(InputError, match="not the record of a calibration"):
        apply_record(calibrated[0], record, tmp_path / "out.onnx", lambda _: None)


def test_ranges_of_other_tensors_are_refused(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    record = changed(record_path(calibrated[1]), tmp_path, ranges={"images": 1.0})
    with pytest.raises(InputError, match="other tensors"):
        apply_record(calibrated[0], record, tmp_path / "out.onnx", lambda _: None)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null"])
def test_a_file_that_is_no_record_is_refused(calibrated: tuple[Path, Path], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.calib.json").write_bytes(content)
    with pytest.raises(InputError, match="not the record of a calibration"):
        apply_record(calibrated[0], tmp_path / "x.calib.json", tmp_path / "out.onnx", lambda _: None)
