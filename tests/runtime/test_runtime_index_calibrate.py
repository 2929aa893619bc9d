"""calibrate computes the threshold, keeps it, and says what it rests on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import deepir.runtime.view_blocks as module
from deepir.card import ModelCard
from deepir.errors import InputError
from deepir.image import Image
from deepir.runtime import Extractor, Index
from deepir.runtime.calibration import Calibration, NearestViews, calibrate, nearest_views
from deepir.runtime.index_calibrate_cli import calibrate_command
from deepir.runtime.threshold import Threshold, threshold_from_unknown

Rows = NDArray[np.float32]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]


@pytest.fixture
def run() -> Command:
    return lambda *words: CliRunner().invoke(calibrate_command, [str(word) for word in words])


@pytest.fixture
def other(tmp_path: Path, rng: np.random.Generator, write_picture: WritePicture) -> Path:
    """Pictures of thirty mixed colours, none of them in the catalogue."""
    for number in range(30):
        pixels = np.clip(rng.uniform(0, 255, 3) + rng.normal(0, 6, (48, 64, 3)), 0, 255).astype(np.uint8)
        write_picture(tmp_path / "other" / f"{number:02}.png", pixels)
    return tmp_path / "other"


def memory_index(tmp_path: Path, make_card: Callable[..., ModelCard], views: dict[str, Rows]) -> Index:
    model = tmp_path / "any.onnx"
    model.write_bytes(b"any")
    index = Index.create(make_card(), model, dtype="f32")
    for label, rows_nd in views.items():
        index.add(label, rows_nd, [f"{number}.png" for number in range(len(rows_nd))])
    return index


def at_angles(*degrees: float) -> Rows:
    """Descriptors in a plane: the similarity of two is the cosine of the angle between them."""
    angles = np.radians(degrees)
    rows_nd = np.zeros((len(degrees), 8), np.float32)
    rows_nd[:, 0], rows_nd[:, 1] = np.cos(angles), np.sin(angles)
    return rows_nd


def cosines(*degrees: float) -> list[float]:
    return np.cos(np.radians(degrees)).tolist()


def plain_nearest(index: Index) -> tuple[list[float], list[float]]:
    items, rows_nd = list(index.items()), index.descriptors()
    similarity_nn = rows_nd @ rows_nd.T
    own, other = [], []
    for one, item in enumerate(items):
        same = [
            similarity_nn[one, two] for two, second in enumerate(items) if second.label == item.label and two != one
        ]
        own += [max(same)] if same else []
        other.append(max(similarity_nn[one, two] for two, second in enumerate(items) if second.label != item.label))
    return sorted(map(float, own)), sorted(map(float, other))


def test_each_view_is_left_out_in_turn(tmp_path: Path, make_card: Callable[..., ModelCard]) -> None:
    views = {"a": at_angles(0, 10), "b": at_angles(40, 100), "c": at_angles(45)}
    nearest = nearest_views(memory_index(tmp_path, make_card, views))
    # c has a single view, which has no other of its own
    np.testing.assert_allclose(np.sort(nearest.own_m), sorted(cosines(10, 10, 60, 60)), atol=1e-6)
    np.testing.assert_allclose(np.sort(nearest.other_n), sorted(cosines(40, 30, 5, 55, 5)), atol=1e-6)
    assert nearest.views == 5


def test_blocks_and_batches_make_no_difference(
    tmp_path: Path,
    make_card: Callable[..., ModelCard],
    rng: np.random.Generator,
    unit_rows: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = {label: unit_rows(rng, count) for label, count in (("b", 4), ("a", 1), ("c", 9), ("d", 2))}
    index = memory_index(tmp_path, make_card, views)
    index.add("b", unit_rows(rng, 3), ["late.png"] * 3)
    index.remove([2, 9])
    whole = nearest_views(index)
    own, other = plain_nearest(index)
    np.testing.assert_allclose(np.sort(whole.own_m), own, atol=1e-6)
    np.testing.assert_allclose(np.sort(whole.other_n), other, atol=1e-6)
    monkeypatch.setattr(module, "_ROWS", 3)
    monkeypatch.setattr(module, "_SAMPLED_AT_ONCE", 5)
    parted = nearest_views(index)
    np.testing.assert_allclose(parted.own_m, whole.own_m, atol=1e-6)
    np.testing.assert_allclose(parted.other_n, whole.other_n, atol=1e-6)


def test_of_many_views_an_even_sample_is_left_out(
    tmp_path: Path, make_card: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = memory_index(tmp_path, make_card, {"a": at_angles(*range(6)), "b": at_angles(*range(50, 56))})
    monkeypatch.setattr(module, "_MOST_CELLS", 12 * 4)
    nearest = nearest_views(index)
    assert (len(nearest.other_n), len(nearest.own_m), nearest.views) == (4, 4, 12)


def test_the_curve_counts_what_reaches_each_threshold() -> None:
    impostors, own = np.array([0.1, 0.2, 0.3, 0.30001], np.float32), np.array([0.3, 0.5], np.float32)
    calibration = Calibration(Threshold(0.3, 0.01, 4), impostors, NearestViews(own, impostors, 6))
    points = {point.threshold: (point.impostors, point.own) for point in calibration.curve()}
    assert (min(points), max(points)) == (0.1, 0.51)
    assert len(points) == 42
    # 0.1 in single precision is a little more than 0.1, and 0.3 a little more than 0.3
    assert points[0.1] == (1.0, 1.0)
    assert points[0.11] == (0.75, 1.0)
    assert points[0.3] == (0.5, 1.0)
    assert points[0.31] == (0.0, 0.5)
    assert points[0.51] == (0.0, 0.0)


def test_a_narrow_curve_has_finer_steps() -> None:
    close = np.array([0.97, 0.99], np.float32)
    calibration = Calibration(Threshold(0.98, 0.01, 2), close, NearestViews(close[:0], close, 2))
    points = list(calibration.curve())
    assert [round(point.threshold, 6) for point in points[:2]] == [0.97, 0.971]
    assert points[-1].impostors == 0
    assert all(point.own is None for point in points)


def test_the_threshold_is_kept_in_the_index(shop: Path, run: Command) -> None:
    before = Index.open(shop).threshold
    result = run(shop, "--far", 0.2, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    index = Index.open(shop)
    assert before is not None
    assert index.threshold is not None
    assert (index.threshold.value, index.threshold.far, index.footer.far) == (facts["threshold"], 0.2, 0.2)
    assert index.threshold.value < before.value
    assert (facts["basis"], facts["impostors"], facts["own_views"]) == ("views", 12, 12)
    assert f"next: deepir-index eval {shop}" in result.stderr


def test_unknown_pictures_set_the_threshold(shop: Path, other: Path, model: Path, run: Command) -> None:
    result = run(shop, "--far", 0.1, "--unknown", other, "--json", "--curve", "--margin", 0.25)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    index = Index.open(shop)
    with Extractor.open(model) as extractor:
        best = [hits[0].similarity for hits in index.search_many(extractor.describe_files(sorted(other.iterdir())), 1)]
    assert index.threshold is not None
    assert (index.threshold.basis, index.threshold.impostors) == ("unknown", 30)
    assert (index.margin, index.footer.far) == (0.25, 0.1)
    assert index.threshold.value == pytest.approx(threshold_from_unknown(np.array(best, np.float32), 0.1).value)
    assert facts["impostors_above"] == pytest.approx(np.mean(np.array(best) >= index.threshold.value), abs=1e-6)
    shares: list[dict[str, Any]] = facts["curve"]
    assert [one["impostors"] for one in shares] == sorted((one["impostors"] for one in shares), reverse=True)
    assert (shares[0]["impostors"], shares[-1]["impostors"], shares[-1]["own"]) == (1.0, 0.0, 0.0)


def test_without_far_the_wish_of_the_index_stays(
    tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command, run: Command
) -> None:
    path = tmp_path / "shop.usearch"
    assert deepir_index("build", path, catalogue, "--model", model, "--far", 0.3).exit_code == 0
    assert json.loads(run(path, "--json").stdout)["far"] == 0.3


def test_the_curve_is_a_table_for_people(shop: Path, run: Command) -> None:
    lines = run(shop, "--curve").stdout.splitlines()
    assert lines[0].split() == ["threshold", "impostors", "own", "views"]
    assert lines[1].split()[1:] == ["100.00%", "100.00%"]
    assert lines[-1].split()[1:] == ["0.00%", "0.00%"]


def test_too_few_impostors_are_warned_of(shop: Path, other: Path, run: Command) -> None:
    assert "so few labels do not show a share of 0.01 (1 in 100)" in run(shop, "--far", 0.01).stderr
    unknown = ("--unknown", other, "--far")
    assert "so few pictures of unknown things do not show" in run(shop, *unknown, 0.01).stderr
    assert "extrapolation" not in run(shop, *unknown, 0.2).stderr


def test_a_threshold_that_refuses_most_own_views_is_warned_of(
    tmp_path: Path, make_card: Callable[..., ModelCard]
) -> None:
    alike = {"a": at_angles(0, 60), "b": at_angles(1, 61)}
    calibration = calibrate(memory_index(tmp_path, make_card, alike), 0.5)
    assert any("100% of the stored views would be unknown" in sentence for sentence in calibration.warnings())
    apart = {"a": at_angles(0, 1), "b": at_angles(60, 61)}
    calibration = calibrate(memory_index(tmp_path, make_card, apart), 0.5)
    assert not any("stored views" in sentence for sentence in calibration.warnings())


def test_blank_unknown_pictures_are_left_out_and_said(
    shop: Path, tmp_path: Path, other: Path, write_picture: WritePicture, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = write_picture(other / "zz.png", np.zeros((40, 40, 3), np.uint8))
    describe_files = Extractor.describe_files

    def blank_last(extractor: Extractor, paths: list[Path]) -> Rows:
        described_nd = describe_files(extractor, paths)
        described_nd[[path == black for path in paths]] = 0
        return described_nd

    monkeypatch.setattr(Extractor, "describe_files", blank_last)
    result = run(shop, "--unknown", other, "--json")
    assert result.exit_code == 0, result.stderr
    assert f"left out 1 blank pictures, the first is {black}" in result.stderr
    assert json.loads(result.stdout)["impostors"] == 30


def test_what_cannot_be_is_one_sentence_and_changes_nothing(
    shop: Path, tmp_path: Path, catalogue: Path, deepir_index: Command, model: Path, run: Command
) -> None:
    single = tmp_path / "single.usearch"
    (tmp_path / "one").mkdir()
    (catalogue / "red").rename(tmp_path / "one" / "red")
    assert deepir_index("build", single, tmp_path / "one", "--model", model).exit_code == 0
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((single,), 3, "1 labels, too few"),
        ((shop, "--far", 1.5), 2, "got 1.5"),
        ((shop, "--margin", 2), 2, "got 2.0"),
        ((shop, "--unknown", tmp_path / "nowhere"), 3, "no such folder"),
        ((tmp_path / "no.usearch",), 3, "cannot read"),
    ]
    before = {path: path.read_bytes() for path in (single, shop)}
    for words, exit_code, part in cases:
        result = run(*words)
        assert (result.exit_code, result.stdout) == (exit_code, ""), (words, result.output)
        assert result.stderr.startswith("error: "), words
        assert part in result.stderr, (words, result.stderr)
    assert {path: path.read_bytes() for path in before} == before


def test_an_empty_index_has_nothing_to_compare_with(tmp_path: Path, make_card: Callable[..., ModelCard]) -> None:
    with pytest.raises(InputError, match="0 labels"):
        calibrate(memory_index(tmp_path, make_card, {}), 0.1, at_angles(3))
