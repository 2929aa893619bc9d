"""The region grid and its windows: golden tables, counts, rounding and edges."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import ShapeError
from deepir.head import Head
from deepir.regions import Regions, Windows, head_windows, image_regions, map_windows, region_windows

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "rmac_image_grid.json").read_text())
GOLDEN_ON_MAPS = json.loads((DATA / "rmac_featuremap_grid.json").read_text())
SHORT = 300
LONG_SIDES = {1.0: 300, 1.4: 420, 2.1: 630, 2.7: 810, 3.3: 990, 4.0: 1200, 4.5: 1350}
COUNTS = {
    1: (1, 2, 3, 4, 5, 6, 7),
    2: (5, 8, 11, 14, 17, 20, 23),
    3: (14, 20, 26, 32, 38, 44, 50),
    4: (30, 40, 50, 60, 70, 80, 90),
}


def case_name(case: dict) -> str:
    return f"{case['H']}x{case['W']}-L{case['L']}"


def windows_of(x1: int, y1: int, x2: int, y2: int, *, cells: int = 25) -> list[int]:
    regions: Regions = np.array([[x1, y1, x2, y2]], dtype=np.int32)
    return region_windows(regions, cells, cells, 32)[0].tolist()


@pytest.mark.parametrize("case", GOLDEN, ids=case_name)
def test_the_grid_equals_the_golden_regions(case: dict) -> None:
    expected = [region[1:] for region in case["rois"]]
    assert image_regions(case["H"], case["W"], case["L"]).tolist() == expected


@pytest.mark.parametrize("case", GOLDEN, ids=case_name)
def test_the_windows_equal_the_golden_windows(case: dict) -> None:
    regions = image_regions(case["H"], case["W"], case["L"])
    y0, x0, y1, x1 = region_windows(regions, *case["caffe_fm"], 32).T
    assert np.stack([x0, x1, y0, y1], axis=1).tolist() == case["bins_x0x1y0y1"]


@pytest.mark.parametrize("levels", COUNTS)
@pytest.mark.parametrize("column", range(7))
def test_the_number_of_regions_follows_the_aspect(levels: int, column: int) -> None:
    long = list(LONG_SIDES.values())[column]
    assert len(image_regions(SHORT, long, levels)) == COUNTS[levels][column]


@given(st.integers(40, 400), st.integers(40, 400), st.integers(0, 4))
def test_a_tall_image_has_the_regions_of_the_wide_one_with_the_axes_swapped(
    height: int, width: int, levels: int
) -> None:
    wide = {tuple(region) for region in image_regions(height, width, levels).tolist()}
    tall = {(x1, y1, x2, y2) for y1, x1, y2, x2 in image_regions(width, height, levels).tolist()}
    assert wide == tall


@given(st.integers(10, 2000), st.integers(10, 2000), st.integers(0, 4))
def test_every_region_lies_inside_the_image(height: int, width: int, levels: int) -> None:
    x1, y1, x2, y2 = image_regions(height, width, levels).T
    assert (x1 >= 0).all()
    assert (y1 >= 0).all()
    assert (x2 < width).all()
    assert (y2 < height).all()


def test_a_nearly_square_image_has_one_more_position_than_a_square_one() -> None:
    assert (len(image_regions(800, 800, 1)), len(image_regions(799, 800, 1))) == (1, 2)


@pytest.mark.parametrize("tenths", [10, 30, 37, 100, 120])
def test_at_aspect_nine_to_five_the_rounding_of_doubles_picks_two_extra_positions(tenths: int) -> None:
    assert len(image_regions(5 * tenths, 9 * tenths, 2)) == 11


@pytest.mark.parametrize(("short", "long", "extra"), [(33, 121, 5), (35, 107, 4), (33, 141, 6)])
def test_at_other_ties_the_order_of_the_sources_arithmetic_decides(short: int, long: int, extra: int) -> None:
    assert len(image_regions(short, long, 1)) == 1 + extra


def test_level_zero_is_the_whole_image() -> None:
    assert image_regions(480, 640, 0).tolist() == [[0, 0, 639, 479]]


@pytest.mark.parametrize(("height", "width", "levels"), [(0, 10, 2), (10, 0, 2), (10, 10, -1)])
def test_an_impossible_grid_is_refused_with_its_values(height: int, width: int, levels: int) -> None:
    with pytest.raises(ShapeError, match=f"{height}x{width} and {levels}"):
        image_regions(height, width, levels)


def test_an_image_too_small_for_a_level_is_refused_with_the_level() -> None:
    with pytest.raises(ShapeError, match="1x5 has no region at level 2"):
        image_regions(1, 5, 2)


def test_halves_round_up() -> None:
    assert windows_of(400, 0, 799, 399)[1] == 13


def test_a_region_over_the_edge_of_the_map_is_clipped() -> None:
    assert windows_of(400, 0, 5000, 31, cells=20) == [0, 13, 2, 20]


def test_a_region_outside_the_map_has_an_empty_window() -> None:
    top, left, bottom, right = windows_of(3200, 0, 3231, 31)
    assert right <= left
    assert (top, bottom) == (0, 2)


def test_a_region_of_one_pixel_covers_one_cell() -> None:
    assert windows_of(320, 320, 320, 320) == [10, 10, 11, 11]


@pytest.mark.parametrize("stride", [1, 4, 8, 16, 32])
def test_the_whole_image_covers_the_whole_map_at_every_stride(stride: int) -> None:
    whole: Windows = region_windows(image_regions(64, 96, 0), 64 // stride, 96 // stride, stride)
    assert whole.tolist() == [[0, 0, 64 // stride, 96 // stride]]


@pytest.mark.parametrize("case", GOLDEN_ON_MAPS, ids=case_name)
def test_the_grid_on_a_map_equals_the_golden_one(case: dict) -> None:
    y0, x0, y1, x1 = map_windows(case["H"], case["W"], case["L"]).T
    assert np.stack([x0, y0, x1 - x0], axis=1).tolist() == case["regions_xys"]
    np.testing.assert_array_equal(x1 - x0, y1 - y0)


def test_the_whole_map_comes_first_when_asked() -> None:
    whole, *grid = map_windows(10, 30, 3, whole_first=True).tolist()
    assert (whole, grid) == ([0, 0, 10, 30], map_windows(10, 30, 3).tolist())


@pytest.mark.parametrize("grid", ["image", "map", "map+whole"])
def test_a_head_without_levels_takes_the_whole_map(grid: str) -> None:
    assert head_windows(Head(levels=0, grid=grid), (450, 330), (15, 11), 32).tolist() == [[0, 0, 15, 11]]


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_a_head_lays_the_image_grid_on_a_map_of_any_stride(stride: int) -> None:
    windows = head_windows(Head(levels=2), (384, 512), (384 // stride, 512 // stride), stride)
    expected = region_windows(image_regions(384, 512, 2), 384 // stride, 512 // stride, stride)
    np.testing.assert_array_equal(windows, expected)


@pytest.mark.parametrize("grid", ["map", "map+whole"])
def test_a_head_lays_the_map_grid_on_the_cells(grid: str) -> None:
    windows = head_windows(Head(levels=3, grid=grid), (600, 800), (19, 25), 32)
    np.testing.assert_array_equal(windows, map_windows(19, 25, 3, whole_first=grid == "map+whole"))
