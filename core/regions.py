"""The R-MAC grid: regions in image pixels, and the windows of map cells they cover."""

import math

import numpy as np
from numpy.typing import NDArray

from deepir.errors import ShapeError
from deepir.head import Head
from deepir.spec import Size

Regions = NDArray[np.int32]
"""(R, 4): x1, y1, x2, y2 in image pixels, ends inclusive."""

Windows = NDArray[np.int32]
"""(R, 4): y0, x0, y1, x1 in map cells, ends exclusive."""

_TARGET_OVERLAP = 0.4
_MOST_EXTRA_STEPS = 6


def image_regions(height: int, width: int, levels: int) -> Regions:
    """The rigid grid on an image, ordered by level, row, column (method.md 1.2).

    `levels` 0 gives the whole image, which makes R-MAC plain MAC.

    Raises:
        ShapeError: An image without pixels, or so small that a level has none.
    """
    if min(height, width) < 1 or levels < 0:
        message = f"the region grid needs an image and levels >= 0, got {height}x{width} and {levels}"
        raise ShapeError(message)
    if levels == 0:
        return np.array([[0, 0, width - 1, height - 1]], dtype=np.int32)
    extra = _extra_steps(height, width)
    extra_columns, extra_rows = (extra if width > height else 0), (extra if height > width else 0)
    rows: list[tuple[int, int, int, int]] = []
    for level in range(1, levels + 1):
        side = 2 * min(height, width) // (level + 1)
        if side < 1:
            message = f"an image of {height}x{width} has no region at level {level}: use fewer levels"
            raise ShapeError(message)
        lefts = _starts(width, side, level + extra_columns)
        tops = _starts(height, side, level + extra_rows)
        rows += [(left, top, left + side - 1, top + side - 1) for top in tops for left in lefts]
    return np.array(rows, dtype=np.int32)


def region_windows(regions: Regions | NDArray[np.float32], map_height: int, map_width: int, stride: int) -> Windows:
    """The map cells under each region, with the rounding of Caffe's RoI pooling (method.md 1.3).

    Halves round up and ends are inclusive before clipping; a window may be empty when a region lies outside.
    """
    corners = np.floor(regions.astype(np.float64) / stride + 0.5).astype(np.int32)
    x0, y0, x1, y1 = corners.T
    x_end = x0 + np.maximum(x1 - x0 + 1, 1)
    y_end = y0 + np.maximum(y1 - y0 + 1, 1)
    limits = np.array([map_height, map_width, map_height, map_width], dtype=np.int32)
    windows: Windows = np.clip(np.stack([y0, x0, y_end, x_end], axis=1), 0, limits).astype(np.int32)
    return windows


def map_windows(map_height: int, map_width: int, levels: int, *, whole_first: bool = False) -> Windows:
    """The grid of Tolias laid on the cells of a map themselves, ordered by level, row, column (method.md 1.1).

    Args:
        map_height: Cells of the map from top to bottom.
        map_width: Cells from left to right.
        levels: 3 in the original.
        whole_first: Put the whole map before the grid, as cnnimageretrieval does.

    Raises:
        ShapeError: As `image_regions`.
    """
    left, top, right, bottom = image_regions(map_height, map_width, levels).T
    windows = np.stack([top, left, bottom + 1, right + 1], axis=1).astype(np.int32)
    whole = np.array([[0, 0, map_height, map_width]], dtype=np.int32)
    return np.concatenate([whole, windows]) if whole_first else windows


def head_windows(head: Head, image_size: Size, map_size: Size, stride: int) -> Windows:
    """The windows that a head pools on one map of an image; with levels 0 the whole map.

    Args:
        head: Its grid and levels.
        image_size: Height and width of the prepared image in pixels.
        map_size: Height and width of the map in cells.
        stride: Pixels for each cell of that map.
    """
    if head.levels == 0:
        return np.array([[0, 0, *map_size]], dtype=np.int32)
    if head.grid == "image":
        return region_windows(image_regions(*image_size, head.levels), *map_size, stride)
    return map_windows(*map_size, head.levels, whole_first=head.grid == "map+whole")


def _extra_steps(height: int, width: int) -> int:
    """How many positions the long side has beyond the short side's, so that neighbours overlap by about 0.4."""
    short, long = min(height, width), max(height, width)
    if short == long:
        return 0

    def overlap_error(step: int) -> float:
        shift = (long - short) / step
        return abs((short * short - short * shift) / (short * short) - _TARGET_OVERLAP)

    # min keeps the first of equals, which is the smallest step, as in the source
    return min(range(1, _MOST_EXTRA_STEPS + 1), key=overlap_error)


def _starts(length: int, side: int, count: int) -> list[int]:
    step = (length - side) / (count - 1) if count > 1 else 0.0
    # the detour through half the side changes nothing but the floating rounding, which must equal the source's
    half = math.floor(side / 2 - 1)
    starts = [math.floor(half + step * position) - half for position in range(count)]
    return [min(start, length - side) for start in starts]
