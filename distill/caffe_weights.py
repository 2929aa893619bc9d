"""Weights of Caffe layers as tensors: convolution with batch norm, and shift with projection."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from deepir.distill.caffe_file import Array
from deepir.distill.import_plan import Affine
from deepir.errors import ModelError

Blobs = Mapping[str, tuple[Array, ...]]
"""The weights of layers by name."""


def read_unit(blobs: Blobs, names: tuple[str, str, str], convolution: str, norm: str) -> dict[str, Tensor]:
    """The tensors of a bias-free convolution and torch's batch norm, of three Caffe layers.

    Caffe's BatchNorm keeps sums, to be divided by a factor, which 0 makes 0; gamma and beta are in the Scale layer
    (method.md 3.2). A bias of the convolution moves into the running mean.

    Args:
        blobs: By layer name.
        names: The layers: convolution, BatchNorm and Scale.
        convolution: What torch calls the convolution.
        norm: What torch calls its batch norm.

    Raises:
        ModelError: A layer is missing or has other arrays.
    """
    weight, *bias = _arrays(blobs, names[0], 1, 2)
    mean, variance, factor = _arrays(blobs, names[1], 3, 3)
    gamma, *beta = _arrays(blobs, names[2], 1, 2)
    if weight.ndim != 4 or not factor.size:
        message = f"the convolution {names[0]} has a weight of shape {weight.shape}, expected four axes"
        raise ModelError(message)
    if len({weight.shape[0], *(array.size for array in (mean, variance, gamma, *bias, *beta))}) > 1:
        message = f"the layers {', '.join(names)} disagree on their channels: the file is damaged"
        raise ModelError(message)
    divisor = float(factor.ravel()[0])
    inverse = 0.0 if divisor == 0 else 1 / divisor
    running_mean = _vector(mean) * inverse
    return {
        f"{convolution}.weight": _tensor(weight),
        f"{norm}.running_mean": running_mean - _vector(bias[0]) if bias else running_mean,
        f"{norm}.running_var": _vector(variance) * inverse,
        f"{norm}.weight": _vector(gamma),
        f"{norm}.bias": _vector(beta[0]) if beta else torch.zeros(weight.shape[0]),
    }


def read_affine(blobs: Blobs, projection: str, shift: str) -> Affine:
    """An InnerProduct layer after the Scale layer that centres its input; the Scale layer may be missing.

    Raises:
        ModelError: The projection is missing, or an array has other axes.
    """
    weight, *bias = _arrays(blobs, projection, 1, 2)
    weight = _without_ones(weight, 2)
    bias_d = _vector(bias[0]) if bias else torch.zeros(weight.shape[0])
    if shift not in blobs:
        return Affine(_tensor(weight), bias_d)
    scale, *offset = _arrays(blobs, shift, 1, 2)
    scale_c = _vector(scale)
    return Affine(_tensor(weight), bias_d, _vector(offset[0]) if offset else torch.zeros_like(scale_c), scale_c)


def _arrays(blobs: Blobs, name: str, least: int, most: int) -> tuple[Array, ...]:
    found = blobs.get(name)
    if found is None:
        message = f"the layer {name} is missing"
        raise ModelError(message)
    if not least <= len(found) <= most:
        message = (
            f"the layer {name} has {len(found)} arrays, expected {least if least == most else f'{least} or {most}'}"
        )
        raise ModelError(message)
    return found


def _without_ones(array: Array, axes: int) -> Array:
    """Old files write every array with four axes, the first ones 1."""
    while array.ndim > axes and array.shape[0] == 1:
        array = array[0]
    if array.ndim != axes:
        message = f"a projection has a weight of shape {array.shape}, expected {axes} axes"
        raise ModelError(message)
    return array


def _vector(array: Array) -> Tensor:
    return _tensor(array.ravel())


def _tensor(array: Array) -> Tensor:
    # a copy: the file is mapped read-only, and its numbers may lie at odd addresses
    return torch.from_numpy(np.array(array, np.float32))
