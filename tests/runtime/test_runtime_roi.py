"""The region of interest: read from words, cut out of frames, refused where it cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import OptionError, ShapeError
from deepir.runtime.roi import Roi

FRAME = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)


@pytest.mark.parametrize(
    ("word", "rows", "columns"),
    [
        ("10,5,20,30", (5, 35), (10, 30)),
        ("0.25, 0, 0.5, 1", (0, 40), (15, 45)),
        ("0,0,1,1", (0, 40), (0, 60)),
        ("0,0,60,40", (0, 40), (0, 60)),
    ],
)
def test_a_region_is_cut_out(word: str, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    np.testing.assert_array_equal(Roi.parse(word).cut(FRAME), FRAME[slice(*rows), slice(*columns)])


@pytest.mark.parametrize(
    "word",
    ["", "1,2,3", "a,b,c,d", "-1,0,10,10", "0,0,0,10", "0.5,0,0.6,1", "1,2,3,4,5", "1e3,0,1,1", "nan,0,1,1"],
)
def test_what_is_no_region_is_refused_with_the_words(word: str) -> None:
    with pytest.raises(OptionError, match="got"):
        Roi.parse(word)


@pytest.mark.parametrize("word", ["50,0,20,10", "0,30,10,20", "100,100,2,2"])
def test_a_region_outside_the_frame_is_refused_with_the_size(word: str) -> None:
    with pytest.raises(ShapeError, match="60x40 pixels"):
        Roi.parse(word).cut(FRAME)


@given(st.integers(0, 59), st.integers(0, 39), st.integers(2, 60), st.integers(2, 40))
def test_a_region_in_pixels_has_just_its_size_or_is_refused(x: int, y: int, width: int, height: int) -> None:
    roi = Roi(x, y, width, height)
    if x + width <= 60 and y + height <= 40:
        assert roi.cut(FRAME).shape == (height, width, 3)
        assert Roi.parse(str(roi)) == roi
    else:
        with pytest.raises(ShapeError):
            roi.cut(FRAME)
