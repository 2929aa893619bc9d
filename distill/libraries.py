"""Networks of timm and torchvision, cut before their heads, with the maps of the stages that are asked for."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from deepir.errors import InputError, OptionError
from deepir.optional import need

_CAFFE_STAGES = ("layer2", "layer3", "layer4")


class TimmTrunk(nn.Module):
    """A model of timm up to its last map or to a stage; with middle stages their maps come first."""

    def __init__(self, model: Any, stage: int | None, middle: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self._stage = stage
        self._middle = tuple(middle)

    def forward(self, images_nchw: Tensor) -> Tensor | list[Tensor]:
        if self._stage is None and not self._middle:
            last: Tensor = self.model.forward_features(images_nchw)
            return last
        if self._stage is None:
            stages = sorted(set(self._middle))
            last, maps = self.model.forward_intermediates(images_nchw, indices=stages)
            return [*(maps[stages.index(stage)] for stage in self._middle), last]
        stages = sorted({*self._middle, self._stage})
        maps = self.model.forward_intermediates(images_nchw, indices=stages, intermediates_only=True, stop_early=True)
        found = [maps[stages.index(stage)] for stage in (*self._middle, self._stage)]
        return found if self._middle else found[0]


class StagedTrunk(nn.Sequential):
    """Named parts that run one after the other; the maps after some of them are given too."""

    def __init__(self, parts: "OrderedDict[str, nn.Module]", middle: Sequence[str]) -> None:
        super().__init__(parts)
        self._middle_names = tuple(middle)

    def forward(self, images_nchw: Tensor) -> Tensor | list[Tensor]:
        maps = {}
        last = images_nchw
        for name, part in self._modules.items():
            last = maps[name] = part(last)
        return [*(maps[name] for name in self._middle_names), last] if self._middle_names else last


def timm_model(network: str, *, pretrained: bool) -> nn.Module:
    """A model of timm.

    Raises:
        OptionError: No such model; names close ones.
        InputError: Its weights cannot be downloaded.
    """
    timm = need("timm")
    if not timm.is_model(network):
        close = ", ".join(timm.list_models(f"*{network[:6]}*")[:5]) or "see timm.list_models()"
        message = f"timm has no network {network!r}; close names: {close}"
        raise OptionError(message)
    return _downloaded(lambda: timm.create_model(network, pretrained=pretrained), network)


def torchvision_model(network: str, *, pretrained: bool) -> nn.Module:
    """A classification model of torchvision; the errors are those of `timm_model`."""
    models = need("torchvision.models")
    if network not in models.list_models():
        message = f"torchvision has no network {network!r}; see torchvision.models.list_models()"
        raise OptionError(message)
    choice = "DEFAULT" if pretrained else None
    return _downloaded(lambda: models.get_model(network, weights=choice), network)


def caffe_resnet(network: str) -> nn.Module:
    """A ResNet of torchvision with the geometry of the Caffe models (method.md 3.3).

    Bottlenecks stride in their first 1x1 convolution, and the first pooling has no padding and rounds up.

    Raises:
        OptionError: Not a ResNet.
    """
    if network not in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        message = f"the Caffe form is that of resnet18, 34, 50, 101 and 152, got {network!r}"
        raise OptionError(message)
    model = torchvision_model(network, pretrained=False)
    model.maxpool = nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)
    for stage in _CAFFE_STAGES:
        first = getattr(model, stage)[0]
        if hasattr(first, "conv3"):
            first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
    return model


def cut_torchvision(model: nn.Module, stage: int | None, middle: Sequence[int]) -> StagedTrunk:
    """A torchvision model without its head, up to a stage.

    The stages of a ResNet are its layers 1 to 4; those of a network with `features` (VGG, MobileNet, SqueezeNet) are
    the positions in it, so that `vgg16@28` ends with the last convolution before its ReLU.

    Raises:
        OptionError: A stage that the network does not have.
    """
    features = getattr(model, "features", None)
    if isinstance(features, nn.Sequential):
        parts = OrderedDict((f"features_{position}", part) for position, part in enumerate(features))
        names = {position: f"features_{position}" for position in range(len(parts))}
    else:
        children = model.named_children()
        parts = OrderedDict((name, child) for name, child in children if name not in ("avgpool", "fc"))
        names = {number: f"layer{number}" for number in range(1, 5) if f"layer{number}" in parts}
    missing = [number for number in (*middle, *([] if stage is None else [stage])) if number not in names]
    if missing:
        message = f"this network has the stages {sorted(names)}, got {missing[0]}"
        raise OptionError(message)
    if stage is not None:
        order = list(parts)
        for name in order[order.index(names[stage]) + 1 :]:
            del parts[name]
    return StagedTrunk(parts, [names[number] for number in middle])


def _downloaded(build: Callable[[], nn.Module], network: str) -> nn.Module:
    try:
        return build()
    except (OSError, RuntimeError) as error:
        message = f"cannot get the weights of {network} ({error}): give a file with --weights"
        raise InputError(message) from error
