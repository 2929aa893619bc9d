"""The gate of a calibration: programs that judge, and retrieval where labels are."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from deepir.calib.derive import plain_int8
from deepir.calib.gate import judge_file, judged_text, passed, with_labels
from deepir.calib.images import CalibrationSet
from deepir.calib.onnx_file import describe, prepared
from deepir.card import GateVerdict, ModelCard
from deepir.descriptors import Descriptors, normalise
from deepir.distill.checkpoint import Model
from deepir.gate import GateLimits, judge, verdict_text
from deepir.runtime import openvino_hint
from deepir.runtime.openvino_vnni import NO_VNNI, lacks_vnni
from deepir.score import average_precision

MakeModel = Callable[..., Model]


def named(labels: str) -> CalibrationSet:
    """A picture for each letter, which is its label; a dot has none."""
    judge = tuple(Path(str(number)) for number in range(len(labels)))
    return CalibrationSet(
        (), judge, {path: letter for path, letter in zip(judge, labels, strict=True) if letter != "."}
    )


def on_circle(*degrees: float) -> Descriptors:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def labelled(labels: str, reference_nd: Descriptors, found_nd: Descriptors, **limits: float) -> object:
    chosen = GateLimits(cosine_min=-1, cosine_mean=-1, agreement=0, **limits)
    return with_labels(judge(reference_nd, found_nd, chosen), named(labels), reference_nd, found_nd, chosen)


def test_what_is_lost_of_map_and_recall_by_hand() -> None:
    # in FP32 each picture stands beside its own label; in INT8 the last one has moved to the other label
    reference, found = on_circle(0, 5, 90, 95), on_circle(0, 5, 90, 3)
    verdict = labelled("aabb", reference, found)
    # average precision by trapezoids of a hit at rank r (from 1) of one positive: (1/(r-1) is 0) / 2 + ...
    # picture 0: b's mover stands first, its positive second: (0 + 1/2) / 2; the same for 1; b at 90: positive third
    # of three: neighbours at 85 and 87 degrees, the positive at 87 comes after 5 degrees' 85: second: 1/4; mover: third
    assert verdict.queries == 4
    assert verdict.recall_loss == pytest.approx(1.0)
    assert verdict.map_loss == pytest.approx(1 - np.mean([0.25, 0.25, 0.25, (0 + 1 / 3) / 2]), abs=1e-6)
    assert not verdict.passed


def test_without_shared_labels_nothing_is_said_of_map() -> None:
    rows = on_circle(0, 5, 90, 95)
    for labels in ("....", "abcd", "a..."):
        verdict = labelled(labels, rows, rows)
        assert (verdict.map_loss, verdict.recall_loss, verdict.queries) == (None, None, 0)
        assert "mAP" not in verdict_text(verdict)


def test_pictures_without_a_label_take_no_part_in_map() -> None:
    reference, found = on_circle(0, 5, 2, 90, 95), on_circle(0, 5, 80, 90, 95)
    # the unlabelled third picture is what moved
    verdict = labelled("aa.bb", reference, found)
    assert (verdict.map_loss, verdict.recall_loss, verdict.queries) == (0, 0, 4)
    assert verdict.passed


def test_the_same_descriptors_lose_nothing() -> None:
    rows = normalise(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    verdict = labelled("aabbccddee" * 2, rows, rows, map_loss=0)
    assert (verdict.passed, verdict.map_loss, verdict.recall_loss, verdict.queries) == (True, 0, 0, 20)
    assert "mAP +0.0, recall@1 +0.0 points for 20 queries: passed" in verdict_text(verdict)


def precisions(labels: str, rows_nd: Descriptors) -> list[float]:
    found = []
    for query, label in enumerate(labels):
        order = [row for row in np.argsort(-rows_nd @ rows_nd[query], kind="stable") if row != query]
        relevant = np.array([labels[row] == label for row in order])
        found.append(average_precision(relevant, int(relevant.sum())))
    return found


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_a_loss_counts_beyond_the_limit_and_twice_its_standard_error(noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = "abcdefghijkl" * 5
    things = rng.normal(size=(12, 8))[list(range(12)) * 5]
    reference = normalise((things + 0.5 * rng.normal(size=(60, 8))).astype(np.float32))
    found = normalise((reference + noise * rng.normal(size=(60, 8))).astype(np.float32))
    losses = np.subtract(precisions(labels, reference), precisions(labels, found))
    verdict = labelled(labels, reference, found)
    assert verdict.map_loss == pytest.approx(losses.mean(), abs=1e-6)
    assert verdict.passed == (losses.mean() <= max(0.003, 2 * losses.std(ddof=1) / np.sqrt(60)))


def test_a_loss_that_passes_beyond_the_limit_is_said_to_be_within_chance() -> None:
    lost = GateVerdict(True, 0.99, 0.996, 1.0, 18, map_loss=0.0423, recall_loss=0.0556, queries=18)
    line = judged_text(lost, GateLimits())
    assert line.startswith("ONNX Runtime: cosine min")
    assert line.endswith("for 18 queries: passed; mAP -4.2 is within chance for 18 queries")
    within, failed = replace(lost, map_loss=0.003), replace(lost, passed=False)
    for verdict in (within, failed, replace(lost, map_loss=None, recall_loss=None, queries=0)):
        assert "chance" not in judged_text(verdict, GateLimits())
    assert "chance" not in judged_text(lost, GateLimits(map_loss=0.05))


def test_onnx_runtime_judges_what_the_tests_name(
    master: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...]
) -> None:
    images = CalibrationSet(paths[::2], paths[1::2])
    int8 = plain_int8(master, lambda: prepared(images.measure, card))
    reference_nd = describe(master, card, images.judge)
    assert os.environ["DEEPIR_BACKEND"] == "onnxruntime"
    verdicts = judge_file(int8, card, images, reference_nd, GateLimits())
    assert [(verdict.program, verdict.images) for verdict in verdicts] == [("ONNX Runtime", 24)]


@pytest.mark.skipif(lacks_vnni(), reason=NO_VNNI)
def test_openvino_judges_too_where_it_will_run_the_file(
    master: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("DEEPIR_BACKEND", "auto")
    images = CalibrationSet(paths[::2], paths[1::2], {path: path.parent.name for path in paths[1::2]})
    int8 = plain_int8(master, lambda: prepared(images.measure, card))
    first, second = judge_file(int8, card, images, describe(master, card, images.judge), GateLimits())
    assert first.program == "ONNX Runtime"
    assert second.program.startswith("OpenVINO, CPU")
    assert second.cosine_mean == pytest.approx(first.cosine_mean, abs=5e-3)
    assert first.queries == second.queries == 24


def test_openvino_that_is_refused_is_told_with_its_reason_and_without_the_name_of_a_file_that_is_gone(
    master: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("DEEPIR_BACKEND", "auto")
    monkeypatch.setattr(openvino_hint, "LIMITS", GateLimits(cosine_min=2.0))
    images = CalibrationSet(paths[::2], paths[1::2])
    int8 = plain_int8(master, lambda: prepared(images.measure, card))
    told: list[str] = []
    verdicts = judge_file(int8, card, images, describe(master, card, images.judge), GateLimits(), told.append)
    assert [verdict.program for verdict in verdicts] == ["ONNX Runtime"]
    assert [line.partition(", cosine")[0] for line in told] == [
        "not judged in OpenVINO: its descriptors differ from ONNX Runtime's"
    ]
    assert ".onnx" not in told[0]
    assert "--backend" not in told[0]


def test_a_planted_bad_range_fails_the_gate(master: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...]) -> None:
    images = CalibrationSet(paths[::2], paths[1::2])
    reference_nd = describe(master, card, images.judge)
    good = plain_int8(master, lambda: prepared(images.measure, card))
    assert passed(judge_file(good, card, images, reference_nd, GateLimits()))
    scale = next(tensor for tensor in good.graph.initializer if tensor.name == "images/scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) / 30, scale.name))
    assert not passed(judge_file(good, card, images, reference_nd, GateLimits()))


def test_calibration_on_noise_fails_the_gate(master: onnx.ModelProto, card: ModelCard, paths: tuple[Path, ...]) -> None:
    images = CalibrationSet(paths[::2], paths[1::2])
    # dim noise: as if someone had calibrated with pixels that were never normalised
    noise = np.random.default_rng(0).normal(0, 0.02, (4, 3, 64, 64)).astype(np.float32)
    careless = plain_int8(master, lambda: [{"images": noise}])
    verdicts = judge_file(careless, card, images, describe(master, card, images.judge), GateLimits())
    assert not passed(verdicts)


def test_one_program_that_fails_is_enough() -> None:
    rows = on_circle(0, 5, 90, 95)
    good, bad = judge(rows, rows, GateLimits()), judge(rows, rows[::-1].copy(), GateLimits())
    assert passed((good, good))
    assert not passed((good, bad))
