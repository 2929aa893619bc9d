"""R-MAC in numpy: the one reference for the torch layer, the ONNX node and the CUDA kernel."""

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, normalise
from deepir.regions import Windows

FloatArray = NDArray[np.float32]


def roi_max_pool(map_nchw: FloatArray, windows: Windows) -> FloatArray:
    """The maximum over each window: (N, C, H, W) and (R, 4) give (N, R, C); an empty window gives 0."""
    batch, channels = map_nchw.shape[:2]
    pooled_nrc = np.zeros((batch, len(windows), channels), dtype=map_nchw.dtype)
    for number, (top, left, bottom, right) in enumerate(windows):
        if bottom > top and right > left:
            pooled_nrc[:, number] = map_nchw[:, :, top:bottom, left:right].max(axis=(2, 3))
    return pooled_nrc


def rmac_tail(pooled_nrc: FloatArray, weight_dc: FloatArray, bias_d: FloatArray) -> Descriptors:
    """L2, whitening, L2, sum over regions, L2 (method.md 2.1): (N, R, C) gives (N, D) of length 1."""
    whitened_nrd = normalise(pooled_nrc) @ weight_dc.T + bias_d
    return normalise(normalise(whitened_nrd).sum(axis=1))
