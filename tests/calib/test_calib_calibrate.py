"""A calibration as a whole: what is tried, what is judged, what is kept FP16, and what is written when INT8 fails."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from deepir.calib.calibrate import Calibrated, CalibrationConfig, apply_record, calibrate_file, fp16_path, read_fp32
from deepir.calib.cli import main
from deepir.calib.derive import derive
from deepir.calib.gate import passed
from deepir.calib.keep import parse_keep
from deepir.calib.onnx_file import describe, read_card, read_onnx, write_onnx
from deepir.calib.quantise import int8_share
from deepir.calib.ranges import METHODS
from deepir.calib.record import read_record, record_path
from deepir.calib.search import RecipeSearch
from deepir.distill.checkpoint import Model
from deepir.errors import OptionError
from deepir.export.graph import build_onnx
from deepir.gate import GateLimits
from deepir.spec import Numerics

MakeModel = Callable[..., Model]

OUT_OF_REACH = GateLimits.around(0.999999)
"""FP16 passes it, INT8 does not."""


@pytest.fixture(scope="module")
def master(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("master") / "model.onnx"
    write_onnx(build_onnx(make_model(dim=6)), path)
    return path


@pytest.fixture(scope="module")
def calibrated(master: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibrated]:
    out = tmp_path_factory.mktemp("calibrated") / "model.int8.onnx"
    return calibrate_file(master, [pictures], out, CalibrationConfig(), lambda _: None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_file_says_what_it_is_and_who_judged_it(master: Path, calibrated: tuple[Path, Calibrated]) -> None:
    path, result = calibrated
    card, before = read_card(read_onnx(path)), read_fp32(master)[1]
    assert (card.numerics, card.gates) == (Numerics.INT8, result.verdicts)
    assert card.spec.fingerprint == before.spec.fingerprint
    assert result.verdicts[0].images == len(result.images.judge)
    assert result.verdicts[0].queries > 0
    assert int8_share(read_onnx(path)) == 1


def test_every_method_is_tried_on_measured_pictures_and_the_nearest_wins(calibrated: tuple[Path, Calibrated]) -> None:
    _, result = calibrated
    tried = [trial.recipe.split(",")[0] for trial in result.trials]
    assert tuple(tried[: len(METHODS)]) == METHODS
    best = max(result.trials[: len(METHODS)], key=lambda trial: trial.cosine_mean)
    assert result.recipe.method == best.recipe.split(",")[0]


def test_the_pictures_that_judge_take_no_part_in_the_choice(
    master: Path, calibrated: tuple[Path, Calibrated], monkeypatch: pytest.MonkeyPatch
) -> None:
    import deepir.calib.search as module

    seen: list[Path] = []
    real = module.prepared
    monkeypatch.setattr(module, "prepared", lambda paths, card: [seen.extend(paths), *real(paths, card)][1:])
    monkeypatch.setattr(
        module, "describe", lambda proto, card, paths: [seen.extend(paths), describe(proto, card, paths)][1]
    )
    proto, card = read_fp32(master)
    images = calibrated[1].images
    RecipeSearch(proto, card, images, np.zeros((0, 6), np.float32)).best(METHODS)
    assert set(seen) == set(images.measure)


def test_the_record_holds_what_the_file_is_derived_from(master: Path, calibrated: tuple[Path, Calibrated]) -> None:
    path, result = calibrated
    record = read_record(record_path(path), master)
    assert (record.recipe, record.verdicts, record.trials) == (result.recipe, result.verdicts, result.trials)
    assert (record.images.measure, record.images.judge) == (result.images.measure, result.images.judge)
    assert record.images.labels == result.images.labels
    assert set(record.saturation) == set(record.recipe.ranges)
    again = derive(read_onnx(master), record.recipe)
    del again.metadata_props[:]
    written = read_onnx(path)
    del written.metadata_props[:]
    assert again.SerializeToString() == written.SerializeToString()


def test_where_no_int8_form_passes_the_file_is_fp16_and_called_so(master: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.int8.onnx"
    out.write_bytes(b"of an earlier calibration")
    said: list[str] = []
    path, result = calibrate_file(master, [pictures], out, CalibrationConfig(limits=OUT_OF_REACH), said.append)
    assert path == tmp_path / "model.fp16.onnx"
    assert (result.numerics, read_card(read_onnx(path)).numerics) == (Numerics.FP16, Numerics.FP16)
    assert passed(result.verdicts)
    assert any(
        "no INT8 form passes the gate" in line and f"{out} is of an earlier calibration" in line for line in said
    )
    # the record makes the same file again
    again, _ = apply_record(master, record_path(path), tmp_path / "again.int8.onnx", lambda _: None)
    assert again == tmp_path / "again.fp16.onnx"
    assert again.read_bytes() == path.read_bytes()


def test_strict_writes_nothing_when_the_gate_fails(master: Path, pictures: Path, tmp_path: Path) -> None:
    result = run(master, "--images", pictures, "-o", tmp_path / "m.int8.onnx", "--gate", 0.999999, "--strict")
    assert result.exit_code == 6
    assert "INT8 changes the descriptors too much: ONNX Runtime: cosine min" in result.output
    assert not list(tmp_path.iterdir())


def test_int8_whatever_the_gate_says_keeps_the_verdict(master: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.int8.onnx"
    result = run(master, "--images", pictures, "-o", out, "--gate", 0.999999, "--keep-fp16", 0)
    assert result.exit_code == 0, result.output
    assert "warning: INT8 changes the descriptors too much" in result.output
    card = read_card(read_onnx(out))
    assert card.numerics is Numerics.INT8
    assert card.gate is not None
    assert not card.gate.passed


def test_the_worst_block_stays_fp16_when_that_is_enough(master: Path, calibrated: tuple[Path, Calibrated]) -> None:
    proto, card = read_fp32(master)
    images = calibrated[1].images
    search = RecipeSearch(proto, card, images, describe(proto, card, images.judge))
    recipe = search.best(("max",))
    plain = search.judged(recipe, GateLimits())
    worst = search.judged(search.kept(recipe, 1), GateLimits())
    middle = (plain.verdicts[0].cosine_mean + worst.verdicts[0].cosine_mean) / 2
    assert plain.verdicts[0].cosine_mean < middle < worst.verdicts[0].cosine_mean
    limits = GateLimits(cosine_min=-1, cosine_mean=middle, agreement=0, map_loss=1)
    rescued = search.rescued(recipe, limits)
    assert rescued is not None
    assert rescued.recipe.kept == search.damage[0].convolutions
    assert 0 < int8_share(rescued.proto) < 1
    assert search.rescued(recipe, GateLimits.around(0.9999999)) is None


def test_named_blocks_stay_fp16(master: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.int8.onnx"
    result = run(master, "--images", pictures, "-o", out, "--keep-fp16", "stem*", "--method", "max", "--json", "-q")
    assert result.exit_code == 0, result.output
    fields = json.loads(result.stdout)
    assert fields["kept_fp16"] == ["stem.0"]
    stem = next(node for node in read_onnx(out).graph.node if node.name == "stem.0")
    makers = {output: node.op_type for node in read_onnx(out).graph.node for output in node.output}
    assert makers[stem.input[0]] == "Cast"


def test_a_name_of_no_block_is_refused_with_names_there_are(master: Path, pictures: Path, tmp_path: Path) -> None:
    result = run(master, "--images", pictures, "-o", tmp_path / "m.int8.onnx", "--keep-fp16", "layer9")
    assert result.exit_code == 2
    assert "names no block or convolution of this model: 'layer9'; it has for example " in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "keep"), [("auto", None), ("0", 0), ("3", 3), ("stem", ("stem",)), ("a, b*", ("a", "b*"))]
)
def test_what_stays_fp16_is_read(text: str, keep: object) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["", ",", "a,,b"])
def test_what_stays_fp16_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="auto, a number of blocks, or names"):
        parse_keep(text)


def test_other_pictures_judge_when_they_are_given(master: Path, pictures: Path, tmp_path: Path) -> None:
    config = CalibrationConfig(method="max", gate_images=(pictures / "tea",))
    _, result = calibrate_file(master, [pictures], tmp_path / "m.int8.onnx", config, lambda _: None)
    assert {path.parent.name for path in result.images.judge} == {"tea"}
    assert "tea" not in {path.parent.name for path in result.images.measure}
    assert result.verdicts[0].images == 8


def test_pictures_that_all_judge_leave_none_to_measure(master: Path, pictures: Path, tmp_path: Path) -> None:
    result = run(master, "--images", pictures, "--gate-images", pictures, "-o", tmp_path / "m.int8.onnx")
    assert result.exit_code == 3
    assert "without the 48 pictures of --gate-images 0 are left to calibrate with" in result.output
    assert not list(tmp_path.iterdir())


def test_the_same_pictures_and_seed_give_the_same_file(master: Path, pictures: Path, tmp_path: Path) -> None:
    config = CalibrationConfig(method="max")
    for name in ("a", "b"):
        calibrate_file(master, [pictures], tmp_path / f"{name}.int8.onnx", config, lambda _: None)
    assert (tmp_path / "a.int8.onnx").read_bytes() == (tmp_path / "b.int8.onnx").read_bytes()


@pytest.mark.parametrize(
    "options",
    [{"method": "guess"}, {"keep": -1}, {"quantiser": "magic"}, {"quantiser": "modelopt", "keep": ("stem",)}],
    ids=["method", "keep", "quantiser", "blocks of modelopt"],
)
def test_a_config_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"must be|0 or more|only our own"):
        CalibrationConfig(**options)


def test_the_command_says_what_it_wrote_and_what_comes_next(master: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.int8.onnx"
    result = run(master, "--images", pictures, "-o", out, "--method", "max")
    assert result.exit_code == 0, result.output
    assert f"wrote {out}" in result.stdout
    assert f"next: deepir-index build things.usearch {pictures} --model {out}" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.int8.calib.json", "m.int8.onnx"]


def test_the_command_refuses_a_model_that_is_int8_already(calibrated: tuple[Path, Calibrated], pictures: Path) -> None:
    result = run(calibrated[0], "--images", pictures)
    assert result.exit_code == 3
    assert "computes in int8" in result.output


@pytest.mark.parametrize("length", [0, 100, 2000])
def test_the_command_refuses_a_truncated_model(master: Path, pictures: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(master.read_bytes()[:length])
    result = run(cut, "--images", pictures)
    assert result.exit_code == 3
    assert "cut.onnx" in result.output
    assert sorted(tmp_path.iterdir()) == [cut]


@pytest.mark.parametrize(
    ("out", "half"),
    [("a.int8.onnx", "a.fp16.onnx"), ("a.onnx", "a.fp16.onnx"), ("a.b.int8.onnx", "a.b.fp16.onnx")],
)
def test_the_fp16_file_is_named_after_the_int8_file(out: str, half: str) -> None:
    assert fp16_path(Path("x") / out) == Path("x") / half
