"""Trunks by name: convolutional networks of timm and torchvision without their heads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deepir.distill.libraries import TimmTrunk, caffe_resnet, cut_torchvision, timm_model, torchvision_model
from deepir.distill.state import load_state, read_state
from deepir.errors import OptionError
from deepir.spec import Triple

_IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
_IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_CAFFE_MEAN: Triple = (123.68000031 / 255, 116.77899933 / 255, 103.93900299 / 255)
_CAFFE_STD: Triple = (1 / 255, 1 / 255, 1 / 255)
_PROBE_SIDE = 128


@dataclass(frozen=True, slots=True)
class Trunk:
    """A network whose output is a map (N, channels, H / stride, W / stride).

    Attributes:
        name: `timm:NAME`, `torchvision:NAME`, `caffe:NAME`, or `custom:NAME` for a module given in code.
        module: Gives the map, or a list of the maps of the middle stages and the last one.
        channels, stride: Of the last map.
        mean, std: Of the RGB values in 0..1 that its weights were trained with.
        middle: Channels and stride of the middle maps, in order.
    """

    name: str
    module: nn.Module
    channels: int
    stride: int
    mean: Triple = _IMAGENET_MEAN
    std: Triple = _IMAGENET_STD
    middle: tuple[tuple[int, int], ...] = ()


def build_trunk(
    name: str, *, middle: Sequence[int] = (), pretrained: bool = False, weights: Path | None = None
) -> Trunk:
    """Build a trunk by name; without weights its parameters are random.

    Args:
        name: `timm:resnet18`, `torchvision:mobilenet_v2`; a bare name means timm. `caffe:resnet101` is torchvision's
            with the strides, the pooling and the means of the Caffe models. `timm:resnet18@3` ends after the third
            stage, whose map is finer and cheaper; `torchvision:vgg16@28` after that position of its features.
        middle: Stages whose maps are given too.
        pretrained: Let the library download its weights.
        weights: A state dict of the library's own model (.safetensors, .pth) or a deepir checkpoint; what the trunk
            does not need, such as a head or later stages, is ignored.

    Raises:
        OptionError: No such network or stage, or one whose output is not a map.
        InputError: The weights are unreadable or do not fit.
    """
    library, network, stage = _parse(name)
    if pretrained and (weights is not None or library == "caffe"):
        message = "choose either --pretrained or --weights; the Caffe form has no pretrained weights of its own"
        raise OptionError(message)
    full_name = f"{library}:{network}" + ("" if stage is None else f"@{stage}")
    mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    if library == "timm":
        model = timm_model(network, pretrained=pretrained)
        config = getattr(model, "default_cfg", {})
        mean, std = tuple(config.get("mean", mean)), tuple(config.get("std", std))
        module: nn.Module = TimmTrunk(model, stage, middle)
    elif library == "caffe":
        module, mean, std = cut_torchvision(caffe_resnet(network), stage, middle), _CAFFE_MEAN, _CAFFE_STD
    else:
        module = cut_torchvision(torchvision_model(network, pretrained=pretrained), stage, middle)
    *middle_maps, (channels, stride) = _probe(full_name, module)
    if weights is not None:
        load_state(module, read_state(weights), str(weights))
    return Trunk(full_name, module, channels, stride, mean, std, tuple(middle_maps))


def wrap_module(name: str, module: nn.Module, mean: Triple = _IMAGENET_MEAN, std: Triple = _IMAGENET_STD) -> Trunk:
    """Use a network given in code as a trunk; a checkpoint of it can be loaded only with that network at hand."""
    *middle, (channels, stride) = _probe(name, module)
    return Trunk(f"custom:{name}", module, channels, stride, mean, std, tuple(middle))


def _parse(name: str) -> tuple[str, str, int | None]:
    library, _, network = name.rpartition(":")
    network, _, stage = network.partition("@")
    if library not in ("", "timm", "torchvision", "caffe"):
        message = f"unknown trunk {name!r}: expected timm:NAME, torchvision:NAME or caffe:NAME"
        raise OptionError(message)
    if stage and not stage.isdigit():
        message = f"a network ends at a numbered stage, written as timm:resnet18@3; got {name!r}"
        raise OptionError(message)
    return library or "timm", network, int(stage) if stage else None


def _probe(name: str, module: nn.Module) -> list[tuple[int, int]]:
    """Channels and stride of each map, found by running the trunk; what took no part (heads) is dropped from it."""
    module.eval()
    try:
        out = module(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
    except (RuntimeError, AssertionError, IndexError, TypeError, AttributeError, ValueError) as error:
        message = f"the trunk {name} cannot run on a picture of {_PROBE_SIDE}x{_PROBE_SIDE}: {error}"
        raise OptionError(message) from error
    maps = [out] if isinstance(out, Tensor) else list(out)
    for map_nchw in maps:
        if map_nchw.ndim != 4 or map_nchw.shape[2] != map_nchw.shape[3]:
            shape = tuple(map_nchw.shape)
            message = f"the trunk {name} gives an array of shape {shape}, not a map: use a convolutional network"
            raise OptionError(message)
    torch.stack([map_nchw.sum() for map_nchw in maps]).sum().backward()  # type: ignore[no-untyped-call]
    _drop_unused(module)
    module.zero_grad(set_to_none=True)
    return [(int(map_nchw.shape[1]), _stride(map_nchw)) for map_nchw in maps]


def _stride(map_nchw: Tensor) -> int:
    """Pixels a cell; maps of convolutions without padding are a few cells smaller, so the nearest power of two."""
    return 1 << round(math.log2(_PROBE_SIDE / map_nchw.shape[2]))


def _drop_unused(module: nn.Module) -> None:
    """Put an Identity in place of every part whose parameters got no gradient."""
    for name, child in list(module.named_children()):
        parameters = list(child.parameters())
        if parameters and all(parameter.grad is None for parameter in parameters):
            setattr(module, name, nn.Identity())
        else:
            _drop_unused(child)
