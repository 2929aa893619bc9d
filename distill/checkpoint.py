"""Checkpoints: weights as safetensors, with the model's description in the file's metadata."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deepir.distill.backbone import Trunk, build_trunk, wrap_module
from deepir.distill.fusion import NEEDS_WHITENING
from deepir.distill.network import RMacNetwork
from deepir.errors import ModelError, OptionError
from deepir.files import replacing
from deepir.head import Head
from deepir.optional import need
from deepir.spec import ModelSpec, Size

_SPEC_KEY = "deepir"


@dataclass(frozen=True, slots=True)
class Model:
    """A network and the description that belongs to it."""

    network: RMacNetwork
    spec: ModelSpec

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def frozen(self) -> "Model":
        """The same model, whose weights nothing can train: a teacher, or features off the shelf."""
        self.network.requires_grad_(False).eval()
        return self

    def sealed(self, *, whitening: str | None = None) -> "Model":
        """The same network with its weights' hash, and the whitening's words when given, in the description."""
        spec = dataclasses.replace(
            self.spec,
            dim=self.network.dim,
            weights=weights_sha256(self.network.state_dict()),
            whitening=self.spec.whitening if whitening is None else whitening,
        )
        return Model(self.network, spec)


def new_model(
    trunk: Trunk,
    *,
    sizes: tuple[Size, ...],
    head: Head | None = None,
    resize: str = "stretch",
    interpolation: str = "area",
) -> Model:
    """A retrieval model on a trunk, not whitened yet; by default R-MAC of two levels.

    Raises:
        OptionError: The trunk does not give the maps that the head fuses.
    """
    head = head or Head()
    network = _network(trunk, head)
    spec = ModelSpec(
        backbone=trunk.name,
        sizes=sizes,
        mean=trunk.mean,
        std=trunk.std,
        stride=trunk.stride,
        channels=trunk.channels,
        dim=trunk.channels,
        resize=resize,
        interpolation=interpolation,
        head=head,
    )
    return Model(network, spec) if head.fusion in NEEDS_WHITENING else Model(network, spec).sealed()


def save_model(model: Model, path: Path) -> None:
    """Write weights and description in one file, whole or not at all."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.network.state_dict().items()}
    with replacing(path) as temporary:
        need("safetensors.torch").save_file(state, temporary, metadata={_SPEC_KEY: model.sealed().spec.to_json()})


def load_model(path: Path, trunk: nn.Module | None = None) -> Model:
    """Read what `save_model` wrote.

    Args:
        path: A .safetensors file.
        trunk: The network to load into, where the description calls it `custom:...`.

    Raises:
        ModelError: Truncated, not a deepir checkpoint, altered, or holding NaN or infinity.
        OptionError: A custom trunk that was not given.
    """
    spec, state = _read(path)
    _check_finite(path, state)
    model = Model(_network(_trunk_of(spec, trunk), spec.head), spec)
    model.network.add_layers_of(state)
    try:
        model.network.load_state_dict(state)
    except RuntimeError as error:
        message = f"{path} does not fit the network {spec.backbone}: {str(error).splitlines()[-1].strip()}"
        raise ModelError(message) from error
    if model.sealed().spec != spec:
        message = f"the weights in {path} are not those its description was made for: the file was altered"
        raise ModelError(message)
    return model


def weights_sha256(state: dict[str, Tensor]) -> str:
    """Hex SHA-256 over names, shapes and values of all tensors but training counters."""
    digest = hashlib.sha256()
    for key in sorted(key for key in state if not key.endswith("num_batches_tracked")):
        array = state[key].detach().cpu().contiguous().numpy()
        digest.update(f"{key}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    safetensors = need("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            state = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 not a dict
    except (OSError, safetensors.SafetensorError) as error:
        message = f"cannot read the checkpoint {path}: {error}"
        raise ModelError(message) from error
    if _SPEC_KEY not in metadata:
        message = f"{path} is not a deepir checkpoint (no description inside): make one with deepir-distill train"
        raise ModelError(message)
    return ModelSpec.from_json(metadata[_SPEC_KEY]), state


def _trunk_of(spec: ModelSpec, module: nn.Module | None) -> Trunk:
    if module is not None:
        return wrap_module(spec.backbone.removeprefix("custom:"), module, spec.mean, spec.std)
    if spec.backbone.startswith("custom:"):
        message = f"the trunk {spec.backbone} was given in code: load this checkpoint with load_model(path, trunk)"
        raise OptionError(message)
    return build_trunk(spec.backbone, middle=spec.head.middle)


def _network(trunk: Trunk, head: Head) -> RMacNetwork:
    if len(trunk.middle) != len(head.middle):
        message = (
            f"the fusion {head.fusion} needs the maps of the stages {head.middle}, and the trunk {trunk.name} gives "
            f"{len(trunk.middle)} middle maps: build it with these stages"
        )
        raise OptionError(message)
    maps = [*trunk.middle, (trunk.channels, trunk.stride)]
    channels, strides = zip(*maps, strict=True)
    return RMacNetwork(trunk.module, head, channels=channels, strides=strides)


def _check_finite(path: Path, state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            message = f"{path} holds NaN or infinity in {key}: training diverged or the file is damaged"
            raise ModelError(message)
