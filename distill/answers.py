"""What a teacher answers when it is shown pictures: the descriptor of each, and what each region adds to it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepir.descriptors import LENGTH_FLOOR, Descriptors, combine_resolutions
from deepir.distill.checkpoint import Model
from deepir.distill.layers import WhiteningLayer
from deepir.distill.network import RMacNetwork
from deepir.image import Image, prepare
from deepir.spec import Size

Rows = NDArray[np.float32]
"""(R, D), one row for each region; R may be 0 and differ between pictures."""


def answer(model: Model, images: Sequence[Image], how: str, *, regions: bool) -> tuple[Descriptors, list[Rows] | None]:
    """Descriptors (N, D) of length 1 as `describe` gives them, and the parts (R, D) of each picture's regions.

    The parts of a picture add up to its descriptor.  A picture whose resolutions have different regions has none.

    Args:
        model: In evaluation mode.
        images: RGB, uint8 (H, W, 3).
        how: `sum` or `max`, over the resolutions; of `max` a region keeps the values of the resolution that won.
        regions: Whether to give the parts; None otherwise.
    """
    network = model.network
    descriptors_snd = np.empty((len(model.spec.resolutions), len(images), _resolution_dim(network)), dtype=np.float32)
    parts: list[list[Rows]] = [[] for _ in images]
    for place, size in enumerate(model.spec.resolutions):
        for rows, tensor in _batches(model, images, size):
            with torch.inference_mode():
                vectors = network.region_vectors(tensor)
                descriptors_snd[place, rows] = network.aggregate(vectors).cpu().numpy()
                if regions:
                    for row, part_rd in zip(rows, region_parts(network, vectors).cpu().numpy(), strict=True):
                        parts[row].append(part_rd)
    combined_nd = combine_resolutions(descriptors_snd, how)
    with torch.inference_mode():
        descriptors_nd: Descriptors = network.project(torch.from_numpy(combined_nd).to(_device(network))).cpu().numpy()
        return descriptors_nd, [_combined(network, each, how) for each in parts] if regions else None


def region_parts(network: RMacNetwork, regions: Sequence[Tensor]) -> Tensor:
    """What each region adds to the descriptor of one resolution: (N, R, D), whose rows add up to `aggregate`'s.

    For the plain head that is v_r / |sum of all v_r|, v_r the whitened vector of length 1 (method.md 2.1). R is 0 where
    the head's branches do not have the same regions, or whiten their sum.

    Args:
        network: In evaluation mode.
        regions: What `network.region_vectors` gave.
    """
    branches = network.branch_list
    counts = {vectors_nrc.shape[1] for vectors_nrc in regions}
    whole = counts == {1}
    if len(counts) > 1 or (any(branch.plan.late for branch in branches) and not whole):
        return regions[0].new_zeros((len(regions[0]), 0, _resolution_dim(network)))
    parts = []
    for branch, vectors_nrc in zip(branches, regions, strict=True):
        # a branch that sees one region gives that region's vector
        alone = branch(vectors_nrc.flatten(0, 1)[:, None]).unflatten(0, vectors_nrc.shape[:2])
        scale = alone.shape[2] if network.head.fusion == "concat-weighted" else 1
        parts.append(scale * (alone if whole else _sum_to_one(alone)))
    joined = torch.stack(parts).sum(dim=0) if network.adds_branches else torch.cat(parts, dim=2)
    return _sum_to_one(joined if network.fuse is None else _shared(network.fuse, joined))


def _combined(network: RMacNetwork, parts: Sequence[Rows], how: str) -> Rows:
    """The parts of one picture at its resolutions as those of its descriptor."""
    if len({part_rd.shape for part_rd in parts}) > 1 or not len(parts[0]):
        return np.zeros((0, network.dim), dtype=np.float32)
    parts_srd = np.stack(parts)
    if how == "max":
        winner_d = parts_srd.sum(axis=1).argmax(axis=0)
        parts_rd = np.take_along_axis(parts_srd, winner_d[None, None], axis=0)[0]
    else:
        parts_rd = parts_srd.sum(axis=0)
    summed = _sum_to_one(torch.from_numpy(parts_rd).to(_device(network)))
    if network.projection is not None:
        summed = _sum_to_one(_shared(network.projection, summed))
    combined_rd: Rows = summed.cpu().numpy()
    return combined_rd


def _sum_to_one(parts: Tensor) -> Tensor:
    """The rows (..., R, D) at the scale at which their sum has length 1."""
    lengths: Tensor = torch.linalg.vector_norm(parts.sum(dim=-2, keepdim=True), dim=-1, keepdim=True)
    return parts / lengths.clamp(min=LENGTH_FLOOR)


def _shared(layer: WhiteningLayer, parts: Tensor) -> Tensor:
    """The layer of a sum as a sum over its parts (..., R, D): each gets an equal share of the bias."""
    weight, bias = layer.folded()
    return parts @ weight.T + bias / parts.shape[-2]


def _resolution_dim(network: RMacNetwork) -> int:
    return network.dim if network.projection is None else network.projection.in_features


def _batches(model: Model, images: Sequence[Image], size: Size | None) -> Iterator[tuple[list[int], Tensor]]:
    """Images that come out at one size together, with their places in the list."""
    prepared: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = {}
    for row, image in enumerate(images):
        array = prepare(image, model.spec, size)
        prepared.setdefault(array.shape, []).append((row, array))
    for group in prepared.values():
        tensor = torch.from_numpy(np.concatenate([array for _, array in group]))
        yield [row for row, _ in group], tensor.to(_device(model.network), memory_format=torch.channels_last)


def _device(network: RMacNetwork) -> torch.device:
    return next(network.parameters()).device
