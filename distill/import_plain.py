"""Reads state dicts of torchvision and timm, whose network the user names."""

from collections.abc import Mapping
from typing import Any

from deepir.distill.import_plan import ImportOptions, Parts, refuse_others
from deepir.distill.torch_file import tensors_of
from deepir.errors import OptionError
from deepir.head import Head

LIBRARIES = ("torchvision", "timm")

_OPTIONS = {"size", "scales", "levels", "trunk"}
_WRAPPERS = ("state_dict", "model", "state_dict_ema")
_SIZE = "320"


def read_plain(content: Mapping[str, Any], options: ImportOptions, library: str | None = None) -> Parts:
    """The parts of a state dict, or of a checkpoint that holds one as `state_dict` or `model`.

    Args:
        content: What `read_torch_file` or safetensors read.
        options: `trunk` names the network, as `torchvision:resnet50`.
        library: `torchvision` or `timm` when that is certain; the trunk's name must agree.

    Raises:
        ModelError: No tensors.
        OptionError: No trunk is named, or one of another library.
    """
    named, _, network = (options.trunk or "").rpartition(":")
    library = library or named
    if not network or library not in LIBRARIES or named not in ("", library):
        message = (
            "a state dict does not say which network it belongs to: name it with --trunk torchvision:NAME or "
            f"--trunk timm:NAME{f', got {options.trunk!r}' if options.trunk else ''}"
        )
        raise OptionError(message)
    refuse_others(options, library, _OPTIONS)
    inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), content)
    state = tensors_of(inner)
    return Parts(
        kind=library,
        trunk=f"{library}:{network}",
        state=state,
        head=Head(levels=2 if options.levels is None else options.levels),
        size=_SIZE,
        mapped=tuple(state),
    )
