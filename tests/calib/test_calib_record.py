"""The record of a calibration gives the same file again, and is refused where it does not belong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.calib.calibrate import CalibrationConfig, apply_record, calibrate_file
from deepir.calib.images import CalibrationSet
from deepir.calib.onnx_file import read_card, read_onnx, write_onnx
from deepir.calib.recipe import Recipe
from deepir.calib.record import BlockDamage, Record, Trial, read_record, record_path, write_record
from deepir.card import GateVerdict
from deepir.distill.checkpoint import Model
from deepir.errors import InputError
from deepir.export.graph import build_onnx
from deepir.spec import Numerics

MakeModel = Callable[..., Model]

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
NUMBERS = st.floats(-1e6, 1e6)
SHARES = st.floats(0, 1)
VERDICTS = st.builds(
    GateVerdict,
    passed=st.booleans(),
    cosine_min=SHARES,
    cosine_mean=SHARES,
    agreement=SHARES,
    images=st.integers(2, 99),
    program=NAMES,
    map_loss=st.none() | NUMBERS,
    recall_loss=st.none() | NUMBERS,
    queries=st.integers(0, 99),
)
RECIPES = st.builds(
    Recipe,
    method=NAMES,
    ranges=st.dictionaries(NAMES, st.floats(0, 1e6)),
    factors=st.dictionaries(NAMES, st.lists(NUMBERS)),
    biases=st.dictionaries(NAMES, st.lists(NUMBERS)),
    skips=st.booleans(),
    kept=st.lists(NAMES).map(tuple),
)


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


def recipe(record: Path, **changes: object) -> dict[str, Any]:
    return {**json.loads(record.read_text())["recipe"], **changes}


def test_the_record_gives_the_same_file_again_without_the_pictures(
    calibrated: tuple[Path, Path], tmp_path: Path
) -> None:
    master, int8 = calibrated
    again = tmp_path / "again.onnx"
    path, judged = apply_record(master, record_path(int8), again, lambda _: None)
    assert path == again
    assert again.read_bytes() == int8.read_bytes()
    assert len(judged) == read_card(read_onnx(int8)).gates[0].images
    assert record_path(again).read_text() == record_path(int8).read_text()
    card = read_card(read_onnx(again))
    assert (card.numerics, card.gates) == (Numerics.INT8, read_card(read_onnx(int8)).gates)


@settings(max_examples=50)
@given(RECIPES, st.lists(VERDICTS).map(tuple), st.sampled_from(Numerics), st.dictionaries(NAMES, SHARES))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    found: Recipe,
    verdicts: tuple[GateVerdict, ...],
    numerics: Numerics,
    saturation: dict[str, float],
) -> None:
    folder = tmp_path_factory.mktemp("record")
    (folder / "model.onnx").write_bytes(b"model")
    record = Record(
        model=folder / "model.onnx",
        recipe=found,
        verdicts=verdicts,
        images=CalibrationSet((Path("a"),), (Path("b"), Path("c")), {Path("b"): "tea"}, {"found": 3}),
        numerics=numerics,
        trials=(Trial("max", 0.5, 0.75),),
        damage=(BlockDamage("layer1", ("a", "b"), 0.25),),
        saturation=saturation,
    )
    write_record(folder / "r.calib.json", record)
    assert read_record(folder / "r.calib.json", record.model) == record


def test_a_record_of_another_file_is_refused_with_both_names(
    calibrated: tuple[Path, Path], make_model: MakeModel, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    write_onnx(build_onnx(make_model(dim=6, seed=1)), other)
    with pytest.raises(InputError, match=r"made of another file \(model\.onnx.* than .*other\.onnx: calibrate again"):
        apply_record(other, record_path(calibrated[1]), tmp_path / "out.onnx", lambda _: None)
    assert not (tmp_path / "out.onnx").exists()


def test_a_library_s_file_cannot_be_made_again(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    record = changed(record_path(calibrated[1]), tmp_path, quantiser="modelopt")
    with pytest.raises(InputError, match="of modelopt, whose file cannot be made again: use the INT8 file itself"):
        apply_record(calibrated[0], record, tmp_path / "out.onnx", lambda _: None)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "deepir.calib/1"},
        {"numerics": "int4"},
        {"recipe": None},
        {"recipe": {"method": "max"}},
        {"verdicts": [{"passed": True}]},
        {"verdicts": {"passed": True}},
        {"measured_on": None},
        {"labels": [1]},
        {"damage": [{"block": "a"}]},
        {"trials": 3},
        {"saturation": {"images": 2}},
        {"pictures": {"found": "many"}},
    ],
)
def test_a_damaged_record_is_refused(calibrated: tuple[Path, Path], tmp_path: Path, changes: dict[str, object]) -> None:
    master, int8 = calibrated
    with pytest.raises(InputError, match=r"changed.calib.json is not the record of a calibration \(.*deepir-calib"):
        read_record(changed(record_path(int8), tmp_path, **changes), master)


@pytest.mark.parametrize(
    "changes",
    [
        {"ranges": [1]},
        {"ranges": {"images": -1}},
        {"ranges": {"images": "NaN"}},
        {"biases": {"stem.0": [float("inf")]}},
        {"factors": {"stem.0": 3}},
        {"kept": 3},
        {"skips": "no"},
    ],
)
def test_a_damaged_recipe_is_refused(calibrated: tuple[Path, Path], tmp_path: Path, changes: dict[str, object]) -> None:
    master, int8 = calibrated
    record = record_path(int8)
    with pytest.raises(InputError, match=r"changed.calib.json is not the record of a calibration"):
        read_record(changed(record, tmp_path, recipe=recipe(record, **changes)), master)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_what_is_no_record_is_refused(calibrated: tuple[Path, Path], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.calib.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x.calib.json is not the record of a calibration"):
        read_record(path, calibrated[0])


def test_a_record_that_is_not_there_is_refused(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*x.calib.json: No such file"):
        read_record(tmp_path / "x.calib.json", calibrated[0])


@pytest.mark.parametrize(
    "changes", [{"ranges": {"images": 1}}, {"kept": ["elsewhere"]}, {"biases": {"elsewhere": [1]}}]
)
def test_a_recipe_of_another_graph_is_refused(
    calibrated: tuple[Path, Path], tmp_path: Path, changes: dict[str, object]
) -> None:
    master, int8 = calibrated
    record = record_path(int8)
    other = changed(record, tmp_path, recipe=recipe(record, **changes))
    with pytest.raises(InputError, match="ranges for other tensors"):
        apply_record(master, other, tmp_path / "out.onnx", lambda _: None)
    assert not (tmp_path / "out.onnx").exists()
