"""Trunks by name: convolutional networks of timm and torchvision without their heads."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepir.errors import InputError, OptionError
from deepir.optional import need
from deepir.spec import Triple

_IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
_IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_PROBE_SIDE = 128


@dataclass(frozen=True, slots=True)
class Trunk:
    """A network whose output is a map (N, channels, H / stride, W / stride).

    Attributes:
        name: `timm:NAME`, `torchvision:NAME`, or `custom:NAME` for a module given in code.
        mean, std: Of the RGB values in 0..1 that its weights were trained with.
    """

    name: str
    module: nn.Module
    channels: int
    stride: int
    mean: Triple = _IMAGENET_MEAN
    std: Triple = _IMAGENET_STD


def build_trunk(name: str, *, pretrained: bool = False, weights: Path | None = None) -> Trunk:
    """Build a trunk by name; without weights its parameters are random.

    Args:
        name: `timm:resnet18`, `torchvision:mobilenet_v2`; a bare name means timm. `timm:resnet18@3` ends after the
            third stage, whose map is finer and cheaper.
        pretrained: Let the library download its weights.
        weights: A state dict of the library's own model (.safetensors, .pth) or a deepir checkpoint; what the trunk
            does not need, such as a head or later stages, is ignored.

    Raises:
        OptionError: No such network, or one whose output is not a map.
        InputError: The weights are unreadable or do not fit.
    """
    library, _, network = name.rpartition(":")
    network, _, stage = network.partition("@")
    if stage and (library == "torchvision" or not stage.isdigit()):
        message = f"only timm networks can end at a stage, written as timm:resnet18@3; got {name!r}"
        raise OptionError(message)
    if pretrained and weights is not None:
        message = "choose either --pretrained or --weights, not both"
        raise OptionError(message)
    if library in ("", "timm"):
        model = _timm_model(network, pretrained=pretrained)
        return _trunk(f"timm:{network}@{stage}" if stage else f"timm:{network}", model, weights, stage)
    if library == "torchvision":
        return _trunk(f"torchvision:{network}", _torchvision_model(network, pretrained=pretrained), weights, "")
    message = f"unknown trunk {name!r}: expected timm:NAME or torchvision:NAME"
    raise OptionError(message)


def wrap_module(name: str, module: nn.Module, mean: Triple = _IMAGENET_MEAN, std: Triple = _IMAGENET_STD) -> Trunk:
    """Use a network given in code as a trunk; a checkpoint of it can be loaded only with that network at hand."""
    channels, stride = _probe(name, module)
    return Trunk(f"custom:{name}", module, channels, stride, mean, std)


class _Features(nn.Module):
    """A library's model, cut before its pooling."""

    def __init__(self, model: nn.Module, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._cut = cut

    def forward(self, images: Tensor) -> Tensor:
        return self._cut(images)


def _timm_model(network: str, *, pretrained: bool) -> nn.Module:
    timm = need("timm")
    if not timm.is_model(network):
        close = ", ".join(timm.list_models(f"*{network[:6]}*")[:5]) or "see timm.list_models()"
        message = f"timm has no network {network!r}; close names: {close}"
        raise OptionError(message)
    return _downloaded(lambda: timm.create_model(network, pretrained=pretrained), network)


def _torchvision_model(network: str, *, pretrained: bool) -> nn.Module:
    models = need("torchvision.models")
    if network not in models.list_models():
        message = f"torchvision has no network {network!r}; see torchvision.models.list_models()"
        raise OptionError(message)
    choice = "DEFAULT" if pretrained else None
    return _downloaded(lambda: models.get_model(network, weights=choice), network)


def _downloaded(build: Callable[[], nn.Module], network: str) -> nn.Module:
    try:
        return build()
    except (OSError, RuntimeError) as error:
        message = f"cannot get the weights of {network} ({error}): give a file with --weights"
        raise InputError(message) from error


def _cut_before_pooling(model: Any, stage: str) -> nn.Module:
    """Models of timm have forward_features, those of torchvision `features` or an end of avgpool and fc."""
    if stage:
        options = {"indices": [int(stage)], "intermediates_only": True, "stop_early": True}
        return _Features(model, lambda images: model.forward_intermediates(images, **options)[0])
    if hasattr(model, "forward_features"):
        return _Features(model, model.forward_features)
    features = getattr(model, "features", None)
    if isinstance(features, nn.Module):
        return nn.Sequential(OrderedDict(features=features))
    return nn.Sequential(
        OrderedDict((name, child) for name, child in model.named_children() if name not in ("avgpool", "fc"))
    )


def _trunk(name: str, model: nn.Module, weights: Path | None, stage: str) -> Trunk:
    config = getattr(model, "default_cfg", {})
    module = _cut_before_pooling(model, stage)
    channels, stride = _probe(name, module)
    if weights is not None:
        _load_weights(module, weights)
    mean, std = tuple(config.get("mean", _IMAGENET_MEAN)), tuple(config.get("std", _IMAGENET_STD))
    return Trunk(name, module, channels, stride, mean, std)


def _probe(name: str, module: nn.Module) -> tuple[int, int]:
    """Channels and stride, found by running the trunk; what did not take part (heads) is dropped from it."""
    module.eval()
    try:
        map_nchw = module(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        is_map = map_nchw.ndim == 4 and _PROBE_SIDE % map_nchw.shape[2] == 0
    except (RuntimeError, AssertionError, IndexError, TypeError, AttributeError) as error:
        message = f"the trunk {name} cannot run on a picture of {_PROBE_SIDE}x{_PROBE_SIDE}: {error}"
        raise OptionError(message) from error
    if not is_map:
        message = (
            f"the trunk {name} gives an array of shape {tuple(map_nchw.shape)}, not a map: use a convolutional network"
        )
        raise OptionError(message)
    map_nchw.sum().backward()
    _drop_unused(module)
    module.zero_grad(set_to_none=True)
    return int(map_nchw.shape[1]), _PROBE_SIDE // int(map_nchw.shape[2])


def _drop_unused(module: nn.Module) -> None:
    """Put an Identity in place of every part whose parameters got no gradient."""
    for name, child in list(module.named_children()):
        parameters = list(child.parameters())
        if parameters and all(parameter.grad is None for parameter in parameters):
            setattr(module, name, nn.Identity())
        else:
            _drop_unused(child)


def _load_weights(module: nn.Module, path: Path) -> None:
    """Load what the trunk needs; a library's own file has more, and a deepir checkpoint has it under `trunk.`."""
    state = {_plain(key): value for key, value in read_state(path).items()}
    own = {_plain(key): value for key, value in module.state_dict().items()}
    missing = [
        key
        for key, value in own.items()
        if not key.endswith("num_batches_tracked") and (key not in state or state[key].shape != value.shape)
    ]
    if missing:
        count = f"{len(missing)} of {len(own)}"
        message = f"{path} does not fit the trunk: {count} tensors are missing, the first is {missing[0]}"
        raise InputError(message)
    with torch.no_grad():
        for key, value in own.items():
            if key in state:
                value.copy_(state[key])


def _plain(key: str) -> str:
    return key.removeprefix("trunk.").removeprefix("model.")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pth without running any pickled code.

    Raises:
        InputError: Missing, truncated, or holding more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state = need("safetensors.torch").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        message = f"cannot read weights from {path}: {_first_line(error)}"
        raise InputError(message) from error
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        message = f"{path} holds no tensors: expected a state dict"
        raise InputError(message)
    return tensors


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
