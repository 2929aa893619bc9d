"""State dicts: read from a file without running what it says, loaded into a trunk."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from deepir.errors import InputError
from deepir.optional import need


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


def load_state(module: nn.Module, state: dict[str, Tensor], source: str) -> list[str]:
    """Load what a trunk needs; gives the names that it left over, such as a head or later stages.

    Args:
        module: The trunk; where it wraps a library's model, the names are that model's own.
        state: A library's own state dict, or that of a deepir checkpoint, which has it under `trunk.`.
        source: What an error calls the state dict.

    Raises:
        InputError: A tensor is missing or has another shape.
    """
    given = {_plain(key): value for key, value in state.items()}
    own = {_plain(key): value for key, value in module.state_dict().items()}
    missing = [
        key
        for key, value in own.items()
        if not key.endswith("num_batches_tracked") and (key not in given or given[key].shape != value.shape)
    ]
    if missing:
        count = f"{len(missing)} of {len(own)}"
        message = f"{source} does not fit the trunk: {count} tensors are missing, the first is {missing[0]}"
        raise InputError(message)
    with torch.no_grad():
        for key, value in own.items():
            if key in given:
                value.copy_(given[key])
    return [key for key in given if key not in own]


def _plain(key: str) -> str:
    return re.sub(r"^features_(?=\d)", "features.", key.removeprefix("trunk.").removeprefix("model."))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
