"""Ranges: what one pass gathers is what all values at once would say, and each method does what its name says."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from deepir.calib.histogram import BINS, bin_width, count, entropy_range, share_beyond, widen
from deepir.calib.onnx_file import Feeds
from deepir.calib.ranges import METHODS, TensorStatistics, measure_statistics, range_by, ranges_by, saturation
from deepir.errors import InputError, ModelError, OptionError

values = st.floats(-1000, 1000, width=32)
arrays = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(3), st.just(4), st.just(5)), elements=values)


def graph(*nodes: onnx.NodeProto, shape: tuple[object, ...] = ("n", 3, "h", "w")) -> onnx.ModelProto:
    """A model with the input `images`, whose output is its last node's."""
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    made = helper.make_graph(list(nodes), "g", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def relu() -> onnx.ModelProto:
    return graph(helper.make_node("Relu", ["images"], ["positive"]))


def measured(*batches: np.ndarray, name: str = "images") -> TensorStatistics:
    return measure_statistics(relu(), [name], lambda: [{"images": batch} for batch in batches])[name]


def normal(count: int = 4, seed: int = 0, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32)


def mean_squared_error(values_n: np.ndarray, limit: float) -> float:
    step = limit / 127
    return float(np.mean((np.clip(np.rint(values_n / step), -127, 127) * step - values_n.astype(np.float64)) ** 2))


@settings(max_examples=40, deadline=None)
@given(arrays)
def test_extremes_and_means_are_those_of_all_values(images: np.ndarray) -> None:
    seen = measured(images)
    assert seen.largest == np.abs(images).max()
    assert seen.smallest == images.min()
    np.testing.assert_array_equal(seen.channel_largest_c, np.abs(images).max(axis=(0, 2, 3)))
    np.testing.assert_allclose(seen.channel_mean_c, images.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-4, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(arrays)
def test_every_value_is_counted_in_the_bin_that_holds_it(images: np.ndarray) -> None:
    seen = measured(images)
    edges = np.arange(BINS + 1) * seen.width
    np.testing.assert_array_equal(seen.counts, np.histogram(np.abs(images).astype(np.float64), edges)[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(arrays, min_size=2, max_size=4), st.randoms())
def test_the_order_of_pictures_changes_no_count(batches: list[np.ndarray], random: object) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)
    once, again = measured(*batches), measured(*shuffled)
    np.testing.assert_array_equal(once.counts, again.counts)
    assert (once.width, once.largest, once.smallest) == (again.width, again.largest, again.smallest)


def test_a_batch_of_pictures_counts_as_its_pictures() -> None:
    images = normal(4)
    together, apart = measured(images), measured(*(images[n : n + 1] for n in range(4)))
    np.testing.assert_array_equal(together.counts, apart.counts)
    np.testing.assert_array_equal(together.channel_mean_c, apart.channel_mean_c)


def test_pictures_of_different_sizes_weigh_by_their_values() -> None:
    small, large = normal(1, side=8), normal(1, seed=1, side=24) + 5
    seen = measured(small, large)
    values_cv = np.concatenate([small.reshape(3, -1), large.reshape(3, -1)], axis=1)
    np.testing.assert_allclose(seen.channel_mean_c, values_cv.mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("largest", [1e-30, 0.37, 1.0, 127.0, 4096.0, 3e38])
def test_the_largest_value_is_in_the_upper_half_of_the_bins(largest: float) -> None:
    place = float(np.float32(largest)) / bin_width(float(np.float32(largest)))
    assert place < BINS
    assert place >= BINS / 2 or largest == 1e-30


@given(hnp.arrays(np.float32, 50, elements=st.floats(0, 3.875, width=32)), st.integers(0, 16))
def test_merged_bins_count_as_if_they_had_been_wide_from_the_start(magnitudes: np.ndarray, doublings: int) -> None:
    width = bin_width(3.875)
    wider = width * 2**doublings
    np.testing.assert_array_equal(widen(count(magnitudes, width), width, wider), count(magnitudes, wider))


def test_a_large_tensor_is_sampled_over_all_channels_rows_and_columns() -> None:
    # each value is its own column, so that a sample of few columns would miss most of them
    columns = np.broadcast_to(np.arange(320, dtype=np.float32), (1, 3, 320, 320))
    seen = measured(columns)
    assert 30_000 < seen.counts.sum() <= 65_536
    found_columns = seen.counts[np.rint(np.arange(320) / seen.width).astype(int)]
    assert found_columns.min() > 0.9 * seen.counts.sum() / 320
    assert seen.channel_mean_c == pytest.approx([159.5] * 3)


def test_a_tensor_within_the_graph_is_watched_too() -> None:
    seen = measured(normal(), name="positive")
    assert seen.smallest == 0
    assert seen.largest == normal().max()


def test_the_model_runs_once_for_each_picture_whatever_the_methods() -> None:
    passes = []

    def batches() -> list[Feeds]:
        passes.append(1)
        return [{"images": normal()}]

    found = measure_statistics(relu(), ["images", "positive"], batches)
    assert [set(ranges_by(found, method)) for method in METHODS] == [{"images", "positive"}] * len(METHODS)
    assert len(passes) == 1


def test_windows_of_a_map_go_with_every_picture() -> None:
    proto = graph(helper.make_node("Relu", ["images"], ["positive"]))
    proto.graph.input.append(helper.make_tensor_value_info("rois", TensorProto.INT32, ("r", 4)))
    feeds = {"images": normal(3), "rois": np.zeros((7, 4), np.int32)}
    assert measure_statistics(proto, ["positive"], lambda: [feeds])["positive"].largest == normal(3).max()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_refused_by_name(broken: float) -> None:
    images = normal()
    images[1, 2, 3, 4] = broken
    with pytest.raises(ModelError, match="tensor images is not finite"):
        measured(images)


def test_means_that_overflow_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        measured(np.full((1, 3, 8, 8), 3e38, np.float32))


def test_a_tensor_without_channels_is_refused() -> None:
    proto = graph(helper.make_node("ReduceSum", ["images"], ["total"], keepdims=0))
    with pytest.raises(ModelError, match=r"tensor total has no channels, its shape is \(\)"):
        measure_statistics(proto, ["total"], lambda: [{"images": normal()}])


@pytest.mark.parametrize("batches", [[], [{"images": np.empty((0, 3, 8, 8), np.float32)}]])
def test_no_pictures_are_refused(batches: list[Feeds]) -> None:
    with pytest.raises(InputError, match="needs pictures, got none"):
        measure_statistics(relu(), ["images"], lambda: batches)


def test_nothing_to_watch_needs_no_pass() -> None:
    assert measure_statistics(relu(), [], lambda: pytest.fail("the pictures were read")) == {}


@settings(max_examples=60, deadline=None)
@given(arrays)
def test_no_method_goes_beyond_the_largest_value(images: np.ndarray) -> None:
    seen = measured(images)
    found = [range_by(seen, method) for method in METHODS]
    assert found[0] == seen.largest
    assert all(0 <= value <= seen.largest and (value > 0) == (seen.largest > 0) for value in found)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_the_range_0(method: str) -> None:
    assert range_by(measured(np.zeros((2, 3, 4, 5), np.float32)), method) == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_range_grows_with_the_values(method: str) -> None:
    assert range_by(measured(normal() * 8), method) == pytest.approx(8 * range_by(measured(normal()), method))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (1, 3, 20, 20), elements=st.floats(0, 100, width=32)), st.floats(1, 50))
def test_the_range_of_least_squares_errs_no_more_than_the_largest_value(images: np.ndarray, outlier: float) -> None:
    images[0, 0, 0, 0] *= outlier
    seen = measured(images)
    if seen.largest > 0:
        # the histogram moves each value by half of a bin at most, once in what is chosen and once in what it is held to
        allowed = seen.width + 1e-4 * seen.largest
        found = np.sqrt(mean_squared_error(images, range_by(seen, "mse")))
        assert found <= np.sqrt(mean_squared_error(images, seen.largest)) * 1.005 + allowed


@pytest.mark.parametrize("name", ["normal", "exponential", "heavy"])
def test_the_range_of_least_squares_is_the_best_by_trial_of_all(name: str) -> None:
    rng = np.random.default_rng(1)
    drawn = {"normal": rng.normal, "exponential": rng.exponential, "heavy": lambda size: rng.standard_t(3, size=size)}
    images = drawn[name](size=(8, 3, 64, 64)).astype(np.float32)
    seen = measured(images)
    errors = [mean_squared_error(images, seen.largest * share) for share in np.linspace(0.05, 1, 191)]
    assert mean_squared_error(images, range_by(seen, "mse")) <= min(errors) * 1.01


def test_the_range_of_least_squares_clips_what_is_rare() -> None:
    images = normal(8, side=128)
    images[0, 0, 0, 0] = 40
    assert range_by(measured(*images[:, None]), "mse") < 20


@pytest.mark.parametrize("percent", [99.999, 99.99])
def test_a_percentile_is_that_of_all_values_to_within_a_bin(percent: float) -> None:
    images = np.random.default_rng(2).exponential(size=(40, 3, 96, 96)).astype(np.float32)
    seen = measured(*images[:, None])
    expected = np.percentile(np.abs(images), percent, method="inverted_cdf")
    assert expected <= range_by(seen, f"percentile-{percent}") <= expected + seen.width


def divergence(magnitudes_n: np.ndarray, limit: float, width: float) -> float:
    """How badly 127 codes within the limit tell the histogram of the values, computed bin by bin."""
    bins = round(limit / width)
    places = (magnitudes_n / width).astype(int)
    # zeros are left out, and their bin is as full as the next
    histogram = np.bincount(places, minlength=bins + 1)
    histogram[0] = histogram[1]
    inside, beyond = histogram[:bins].astype(float), histogram[bins:].sum()
    groups: dict[int, list[int]] = {}
    for place in np.flatnonzero(inside):
        groups.setdefault(round((place + 0.5) * 127 / bins), []).append(int(place))
    told = np.zeros(bins)
    for members in groups.values():
        told[members] = inside[members].mean()
    true = inside.copy()
    true[np.flatnonzero(inside)[-1]] += beyond
    kept = true > 0
    true, told = true[kept] / true.sum(), told[kept] / told.sum()
    return float((true * np.log(true / told)).sum())


def test_the_range_of_entropy_is_the_least_divergence_by_trial() -> None:
    magnitudes = np.abs(np.random.default_rng(3).standard_t(4, size=20000)).astype(np.float32)
    magnitudes[:6000] = 0
    largest = float(magnitudes.max())
    width = bin_width(largest)
    found = entropy_range(count(magnitudes, width), width, largest)
    end = int(largest / width) + 1
    tried = [divergence(magnitudes, bins * width, width) for bins in np.linspace(128, end, 128).astype(int)]
    if found == largest:
        assert min(tried) == tried[-1]
    else:
        assert divergence(magnitudes, found, width) == pytest.approx(min(tried))


def test_entropy_keeps_all_of_what_is_even_and_clips_what_is_rare() -> None:
    even = np.random.default_rng(4).uniform(0, 1, (8, 3, 64, 64)).astype(np.float32)
    assert range_by(measured(even), "entropy") > 0.97
    even[0, 0, 0, 0] = 20
    assert range_by(measured(even), "entropy") < 2


@settings(max_examples=40, deadline=None)
@given(arrays, st.floats(0, 1), st.floats(0, 1))
def test_saturation_is_the_share_of_values_beyond_to_within_a_bin(
    images: np.ndarray, share: float, other: float
) -> None:
    seen = measured(images)
    low, high = sorted([share * seen.largest, other * seen.largest])
    assert 0 <= saturation(seen, high) <= saturation(seen, low) <= 1
    magnitudes = np.abs(images)
    assert saturation(seen, low) <= np.mean(magnitudes >= low - seen.width) + 1e-9
    assert saturation(seen, low) >= np.mean(magnitudes > low + seen.width) - 1e-9


def test_nothing_lies_beyond_the_largest_value() -> None:
    seen = measured(normal())
    assert saturation(seen, range_by(seen, "max")) == 0
    assert share_beyond(seen.counts, seen.width, 1e9) == 0
    assert 0 < saturation(seen, range_by(seen, "percentile-99.99")) < 2e-4


@pytest.mark.parametrize("method", ["", "auto", "MAX", "percentile"])
def test_a_method_that_does_not_exist_is_refused_with_those_that_do(method: str) -> None:
    with pytest.raises(OptionError, match=f"one of max, mse, .*entropy, got '{method}'"):
        range_by(measured(normal()), method)


def test_the_statistics_of_a_real_trunk_name_every_tensor(make_model: Callable[..., object]) -> None:
    from deepir.calib.quantise import place
    from deepir.export.graph import build_onnx

    proto = build_onnx(make_model(dim=6))
    names = place(proto).tensors
    seen = measure_statistics(proto, names, lambda: [{"images": normal(2, side=64)}])
    assert list(seen) == list(names)
    assert [len(seen[name].channel_mean_c) for name in names][:2] == [3, 8]
