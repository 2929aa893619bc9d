"""R-MAC in numpy: the one reference for the torch layer, the ONNX node and the CUDA kernel."""

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, normalise
from deepir.errors import ShapeError
from deepir.regions import Windows, region_windows

FloatArray = NDArray[np.float32]

GEM_FLOOR = 1e-6
"""Cells below it count as it in the generalised mean (method.md 5)."""

GEM_POWER = 3.0
"""Where a learnable power starts."""


def roi_pool(map_nchw: FloatArray, windows: Windows, pooling: str = "max", power: float = GEM_POWER) -> FloatArray:
    """One vector for each window: (N, C, H, W) and (R, 4) give (N, R, C); an empty window gives 0.

    Args:
        map_nchw: A map of the trunk.
        windows: y0, x0, y1, x1 in cells, ends exclusive.
        pooling: `max` (MAC over a whole map, R-MAC over its regions), `mean` (SPoC) or `gem`.
        power: Of the generalised mean: 1 is the mean of what is positive, large powers approach the maximum.
    """
    pooled_nrc = np.zeros((map_nchw.shape[0], len(windows), map_nchw.shape[1]), dtype=map_nchw.dtype)
    for number, (top, left, bottom, right) in enumerate(windows):
        if bottom > top and right > left:
            pooled_nrc[:, number] = _pool_cells(map_nchw[:, :, top:bottom, left:right], pooling, power)
    return pooled_nrc


def roi_max_pool(map_nchw: FloatArray, windows: Windows) -> FloatArray:
    """The maximum over each window: (N, C, H, W) and (R, 4) give (N, R, C); an empty window gives 0."""
    return roi_pool(map_nchw, windows)


def caffe_roi_pooling(map_nchw: FloatArray, rois_r5: NDArray[np.float32], stride: int) -> FloatArray:
    """Caffe's ROIPooling layer with one output cell: (R, 5) rows of batch index, x1, y1, x2, y2 give (R, C).

    Corners are pixels with inclusive ends (method.md 1.3); each row is pooled on its own image of the batch.

    Raises:
        ShapeError: Rows of another length, or a batch index that the map does not have.
    """
    if rois_r5.ndim != 2 or rois_r5.shape[1] != 5:
        message = f"expected regions (R, 5) of batch index, x1, y1, x2, y2, got an array of shape {rois_r5.shape}"
        raise ShapeError(message)
    images_r = rois_r5[:, 0].astype(np.int64)
    if len(images_r) and not 0 <= images_r.min() <= images_r.max() < len(map_nchw):
        message = f"the regions name images {images_r.min()} to {images_r.max()} of a batch of {len(map_nchw)}"
        raise ShapeError(message)
    windows = region_windows(rois_r5[:, 1:], map_nchw.shape[2], map_nchw.shape[3], stride)
    rows = [
        roi_pool(map_nchw[image : image + 1], window[None])[0, 0]
        for image, window in zip(images_r, windows, strict=True)
    ]
    return np.stack(rows) if rows else np.zeros((0, map_nchw.shape[1]), dtype=map_nchw.dtype)


def rmac_tail(pooled_nrc: FloatArray, weight_dc: FloatArray, bias_d: FloatArray) -> Descriptors:
    """L2, whitening, L2, sum over regions, L2 (method.md 2.1): (N, R, C) gives (N, D) of length 1."""
    whitened_nrd = normalise(pooled_nrc) @ weight_dc.T + bias_d
    return normalise(normalise(whitened_nrd).sum(axis=1))


def _pool_cells(cells_nchw: FloatArray, pooling: str, power: float) -> FloatArray:
    if pooling == "max":
        largest: FloatArray = cells_nchw.max(axis=(2, 3))
        return largest
    if pooling == "mean":
        mean: FloatArray = cells_nchw.mean(axis=(2, 3))
        return mean
    means = (np.maximum(cells_nchw, GEM_FLOOR) ** power).mean(axis=(2, 3))
    generalised: FloatArray = (means ** (1 / power)).astype(cells_nchw.dtype)
    return generalised
