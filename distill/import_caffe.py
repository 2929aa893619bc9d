"""Reads the Caffe models of Deep Image Retrieval and of its distilled students, layer by name (method.md 3, 4)."""

import re
from pathlib import Path

import numpy as np
from torch import Tensor

from deepir.distill.caffe_file import Array, Layer, read_caffemodel
from deepir.distill.caffe_weights import Blobs, read_unit
from deepir.distill.import_caffe_head import read_head
from deepir.distill.import_plan import ImportOptions, Parts, refuse_others
from deepir.errors import ModelError
from deepir.head import Head

_OPTIONS = {"size", "scales", "levels", "dim", "whiten", "relu"}
_CONVOLUTION = re.compile(r"res([2-5])([a-z])(\d*)_branch(1|2a|2b|2c)")
_TARGETS = {
    "1": ("downsample.0", "downsample.1"),
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2c": ("conv3", "bn3"),
}
_NETWORKS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
_COPIES = ("l_", "m_", "h_", "p_", "n_")
_SIZE = "800"
_TEACHER_SIZE, _TEACHER_SCALES = "384x512", "0.5,1,1.5"


def read_caffe(path: Path, options: ImportOptions) -> Parts:
    """The parts of a .caffemodel: a ResNet of the Microsoft names with the layers of method.md 2.1 and 4.

    Raises:
        ModelError: Unreadable, another network, layers missing, unknown or of the wrong shape.
        OptionError: Options that mean nothing for it, or a projection that it does not have.
    """
    refuse_others(options, "caffe", _OPTIONS)
    layers = read_caffemodel(path)
    blobs, copies = _without_copies(_by_name(layers))
    convolutions = [name for name in blobs if name == "conv1" or _CONVOLUTION.fullmatch(name)]
    network = _network(convolutions)
    state: dict[str, Tensor] = {}
    for name in convolutions:
        state |= read_unit(blobs, _unit(name), *_targets(name))
    # the Caffe models read BGR; turned round, the first convolution gives the same map of RGB
    state["conv1.weight"] = state["conv1.weight"].flip(1)
    used = [layer for name in convolutions for layer in _unit(name)]
    head = read_head({name: blobs[name] for name in blobs if name not in used}, layers, options)
    teacher = {"l_", "m_", "h_"} <= {name[:2] for name in copies}
    return Parts(
        kind="caffe",
        trunk=f"caffe:{network}",
        state=state,
        head=Head(levels=2 if options.levels is None else options.levels, fusion=head.fusion, middle=head.middle),
        projections=head.projections,
        tensors=head.tensors,
        size=_TEACHER_SIZE if teacher else _SIZE,
        scales=_TEACHER_SCALES if teacher else "1",
        interpolation="bilinear",
        whitening=head.whitening,
        mapped=(*used, *head.mapped),
        left=head.left,
        notes=(*head.notes, *_notes(copies, teacher=teacher)),
    )


def _by_name(layers: list[Layer]) -> dict[str, tuple[Array, ...]]:
    blobs: dict[str, tuple[Array, ...]] = {}
    for layer in layers:
        if layer.blobs and not _same(blobs.setdefault(layer.name, layer.blobs), layer.blobs):
            message = f"two layers of different weights are called {layer.name!r}"
            raise ModelError(message)
    return blobs


def _without_copies(blobs: Blobs) -> tuple[dict[str, tuple[Array, ...]], list[str]]:
    """The network once, and the names of its copies: three resolutions (l_, m_, h_), or triplets (p_, n_)."""
    marks = [mark for mark in _COPIES if f"{mark}conv1" in blobs]
    copies = [name for name in blobs if name.startswith(tuple(marks))] if marks else []
    single = {name: blobs[name] for name in blobs if name not in set(copies)}
    for name in copies:
        if not _same(single.setdefault(name[2:], blobs[name]), blobs[name]):
            message = f"its copies of the layer {name[2:]!r} differ: only equal branches are one network"
            raise ModelError(message)
    return single, copies


def _same(first: tuple[Array, ...], second: tuple[Array, ...]) -> bool:
    if first is second:
        return True
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def _network(convolutions: list[str]) -> str:
    blocks: dict[int, dict[str, None]] = {stage: {} for stage in range(2, 6)}
    for match in filter(None, map(_CONVOLUTION.fullmatch, convolutions)):
        blocks[int(match[1])][match[2] + match[3]] = None
    counts = tuple(map(len, blocks.values()))
    if counts not in _NETWORKS:
        message = (
            f"not a ResNet that is known: it has {counts} blocks in its four stages, a ResNet-50 (3, 4, 6, 3) and a "
            "ResNet-101 (3, 4, 23, 3)"
        )
        raise ModelError(message)
    wanted = [
        f"res{stage}{block}_branch{branch}"
        for stage, names in blocks.items()
        for block in names
        for branch in (("1", "2a", "2b", "2c") if block == "a" else ("2a", "2b", "2c"))
    ]
    missing = [name for name in ("conv1", *wanted) if name not in convolutions]
    if missing:
        message = f"{len(missing)} convolutions are missing, the first is {missing[0]}"
        raise ModelError(message)
    return _NETWORKS[counts]


def _unit(name: str) -> tuple[str, str, str]:
    """A convolution with its batch norm and scale."""
    if name == "conv1":
        return name, "bn_conv1", "scale_conv1"
    return name, f"bn{name[3:]}", f"scale{name[3:]}"


def _targets(name: str) -> tuple[str, str]:
    """Torchvision's names: blocks are a, b, c or, in deep stages, a, b1, b2 (method.md 3.3)."""
    match = _CONVOLUTION.fullmatch(name)
    if match is None:
        return "conv1", "bn1"
    block = int(match[3]) if match[3] else ord(match[2]) - ord("a")
    convolution, norm = _TARGETS[match[4]]
    return f"layer{int(match[1]) - 1}.{block}.{convolution}", f"layer{int(match[1]) - 1}.{block}.{norm}"


def _notes(copies: list[str], *, teacher: bool) -> tuple[str, ...]:
    if not copies:
        return ()
    marks = ", ".join(sorted({name[:2] for name in copies}))
    use = "one network at three sizes" if teacher else "taken once"
    return (f"the branches {marks} have equal weights: {use}",)
