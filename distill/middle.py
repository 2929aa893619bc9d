"""Middle layers: added to a plain model, and the students of method.md 4.3 with the parameters that they train."""

import copy
import dataclasses
from collections.abc import Iterable, Sequence

from torch import nn

from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.layers import WhiteningLayer
from deepir.distill.network import RMacNetwork
from deepir.distill.state import load_state
from deepir.errors import OptionError

TRAINED = ("all", "head", "head+last-stage")
"""What a student trains: everything; the layers after the trunk, as most published students; or stage 5 too."""


def with_middle(model: Model, fusion: str, middle: Sequence[int]) -> Model:
    """The same trunk with maps of middle stages joined to its last one; the master's whitening stays where it fits.

    What the model projects after its whitening was made for other descriptors and is not taken over.

    Args:
        model: A model of one branch on a trunk of a library.
        fusion: One of `deepir.head.FUSIONS`.
        middle: Stages in the order of their vectors, for example 3, 2 for res4 and res3.

    Raises:
        OptionError: The trunk was given in code, or the model has middle layers already.
    """
    spec = model.spec
    if spec.head.middle or spec.backbone.startswith("custom:"):
        message = f"middle layers are added to a plain model on a library's trunk, got {spec.backbone} with {spec.head}"
        raise OptionError(message)
    head = dataclasses.replace(spec.head, fusion=fusion, middle=tuple(middle))
    trunk = build_trunk(spec.backbone, middle=head.middle)
    load_state(trunk.module, model.network.trunk.state_dict(), spec.backbone)
    fused = new_model(trunk, sizes=spec.sizes, head=head, resize=spec.resize, interpolation=spec.interpolation)
    plain, master = model.network.master, fused.network.master
    if plain.whitening is not None and plain.channels == master.channels:
        master.whitening = copy.deepcopy(plain.whitening)
        fused = Model(fused.network, dataclasses.replace(fused.spec, whitening=spec.whitening))
    return fused


def check_trained(trained: str) -> None:
    """Raise OptionError unless `trained` is one of TRAINED."""
    if trained not in TRAINED:
        message = f"what to train must be one of {', '.join(TRAINED)}, got {trained!r}"
        raise OptionError(message)


def choose_trained(network: RMacNetwork, trained: str) -> None:
    """Let only the parameters learn that `trained` names; layers after the trunk get a shift of their own.

    `head` is what the published students train: each shift and fully connected layer, and the new 1x1 convolution
    with its batch norm (method.md 4.3).

    Raises:
        OptionError: Another word, or a trunk without a fourth stage to train.
    """
    check_trained(trained)
    if trained == "all":
        return
    for branch in network.branch_list:
        branch.whitening = _with_shift(branch.whitening)
    network.fuse = _with_shift(network.fuse)
    network.requires_grad_(False)
    for part in _head_parts(network):
        part.requires_grad_(True)
    if trained == "head+last-stage":
        _last_stage(network.trunk).requires_grad_(True)


def head_weights(network: RMacNetwork) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable weights after the trunk, and the trainable biases and shifts, which learn twice as fast."""
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if not name.startswith("trunk.") and parameter.requires_grad:
            (biases if name.endswith(("bias", "shift")) else weights).append(parameter)
    return weights, biases


def _head_parts(network: RMacNetwork) -> Iterable[nn.Module]:
    layers = [*(branch.whitening for branch in network.branch_list), network.fuse, network.adapter, network.fpn]
    return [layer for layer in layers if layer is not None]


def _with_shift(layer: WhiteningLayer | None) -> WhiteningLayer | None:
    if layer is None or layer.shift is not None:
        return layer
    shifted = WhiteningLayer(layer.in_features, layer.out_features, shifted=True)
    shifted.load_state_dict(layer.state_dict(), strict=False)
    return shifted.to(layer.weight.device)


def _last_stage(trunk: nn.Module) -> nn.Module:
    stages: list[nn.Module] = [part for name, part in trunk.named_modules() if name.rpartition(".")[2] == "layer4"]
    if len(stages) != 1:
        message = "head+last-stage needs a ResNet with a fourth stage"
        raise OptionError(message)
    return stages[0]
