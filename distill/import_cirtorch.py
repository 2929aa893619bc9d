"""Reads networks of cnnimageretrieval-pytorch, with the whitening learned inside them or beside (method.md 5)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deepir.distill.import_plan import (
    Affine,
    ImportOptions,
    Parts,
    as_triple,
    choose_whitening,
    default_whitening,
    refuse_others,
)
from deepir.distill.torch_file import tensor_of, tensors_of
from deepir.errors import ModelError, OptionError
from deepir.head import Head
from deepir.spec import Triple, parse_scales, parse_size

_OPTIONS = {"size", "scales", "levels", "dim", "whiten"}
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_LAST_POSITION = {"alexnet": 11, "vgg11": 19, "vgg13": 23, "vgg16": 29, "vgg19": 35}
_WHOLE = ("squeezenet1_0", "squeezenet1_1")
_RESNET_PARTS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_POOLINGS = {"mac": "max", "spoc": "mean", "gem": "gem", "rmac": "max"}
_LEVELS = 3
_SIZE = "1024"
_MEAN: Triple = (0.485, 0.456, 0.406)
_STD: Triple = (0.229, 0.224, 0.225)


def read_cirtorch(content: Mapping[str, Any], options: ImportOptions) -> Parts:
    """The parts of a checkpoint that `read_torch_file` read.

    Args:
        content: `state_dict` and `meta`.
        options: `whiten` names a learned whitening of `meta["Lw"]`; its form for several resolutions is taken when
            `scales` gives several. Without it the only one is taken where the network has no whitening of its own.

    Raises:
        ModelError: A network or pooling that is not known, or arrays that are missing.
        OptionError: Options that mean nothing here.
    """
    refuse_others(options, "cirtorch", _OPTIONS)
    state = tensors_of(content.get("state_dict"))
    meta = content.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    trunk, names = _trunk(str(meta.get("architecture")), state)
    regional = bool(meta.get("regional"))
    head = _head(str(meta.get("pooling")), options.levels, regional=regional)
    if meta.get("local_whitening") or "lwhiten.weight" in state:
        message = "its network whitens every cell of the map (local_whitening), which ours do not"
        raise ModelError(message)
    projections, used = _own_whitening(state, head)
    tensors = {}
    if head.pooling == "gem":
        power = "pool.rpool.p" if regional else "pool.p"
        tensors["pools.0.power"] = _tensor(state, power)
        used.append(power)
    chosen, learned = _learned_whitening(meta.get("Lw"), options, own=bool(projections))
    if learned is not None:
        projections["projection"] = learned
    whitenings = [name.removesuffix(".weight") for name in used if name.endswith(".weight")]
    used += names.values()
    return Parts(
        kind="cirtorch",
        trunk=trunk,
        state={ours: state[theirs] for ours, theirs in names.items()},
        head=head,
        projections=projections,
        tensors=tensors,
        mean=as_triple(meta.get("mean"), _MEAN),
        std=as_triple(meta.get("std"), _STD),
        size=_SIZE,
        whitening=" and ".join([*whitenings, *([] if learned is None else [chosen])]) or "none",
        mapped=tuple(used),
        left=tuple(name for name in state if name not in used),
    )


def _trunk(architecture: str, state: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """Our name of the trunk, and for each of its tensors the name in the file."""
    names: dict[str, str] = {}
    for name in state:
        position, _, rest = name.removeprefix("features.").partition(".")
        if architecture in _RESNETS:
            position = _RESNET_PARTS.get(position, "")
        if name.startswith("features.") and position:
            names[f"{position}.{rest}" if architecture in _RESNETS else name] = name
    if architecture in (*_RESNETS, *_WHOLE):
        return f"torchvision:{architecture}", names
    if architecture in _LAST_POSITION:
        # their networks leave the last pooling out
        return f"torchvision:{architecture}@{_LAST_POSITION[architecture]}", names
    known = ", ".join((*_RESNETS, *_LAST_POSITION, *_WHOLE))
    message = f"its meta names the architecture {architecture!r}: known are {known}"
    raise ModelError(message)


def _head(pooling: str, levels: int | None, *, regional: bool) -> Head:
    if pooling not in _POOLINGS or (regional and pooling == "rmac"):
        form = "regional " if regional else ""
        message = f"its meta names the pooling {form}{pooling!r}: known are {', '.join(_POOLINGS)}"
        raise ModelError(message)
    if regional or pooling == "rmac":
        levels = _LEVELS if levels is None else levels
        return Head(pooling=_POOLINGS[pooling], levels=levels, grid="map+whole")
    if levels:
        message = f"its network pools the whole map ({pooling}), so --levels can only be 0, got {levels}"
        raise OptionError(message)
    return Head(pooling=_POOLINGS[pooling], levels=0)


def _own_whitening(state: Mapping[str, Tensor], head: Head) -> tuple[dict[str, Affine], list[str]]:
    """Whitenings that are layers of the network, of the regions and of the image, and the names they take."""
    places = {"pool.whiten": "branches.0.whitening", "whiten": "fuse" if head.levels else "branches.0.whitening"}
    found = {theirs: ours for theirs, ours in places.items() if f"{theirs}.weight" in state}
    projections = {
        ours: Affine(_tensor(state, f"{theirs}.weight"), _tensor(state, f"{theirs}.bias"))
        for theirs, ours in found.items()
    }
    return projections, [f"{theirs}.{part}" for theirs in found for part in ("weight", "bias")]


def _learned_whitening(found: object, options: ImportOptions, *, own: bool) -> tuple[str, Affine | None]:
    """Lw of the meta: y = P (x - m), for one resolution (ss) or several (ms)."""
    by_name = {str(name): forms for name, forms in found.items()} if isinstance(found, dict) else {}
    wanted = options.whiten or ("none" if own else default_whitening(list(by_name)))
    chosen = choose_whitening(wanted, list(by_name))
    if chosen is None:
        return "none", None
    several = len(parse_scales(options.scales or "1", parse_size(options.size or _SIZE))) > 1
    form = "ms" if several else "ss"
    forms = by_name[chosen]
    arrays = forms.get(form) if isinstance(forms, dict) else None
    mean, weight = (tensor_of(arrays.get(name)) if isinstance(arrays, dict) else None for name in ("m", "P"))
    if mean is None or weight is None or weight.ndim != 2 or mean.numel() != weight.shape[1]:
        message = f"its learned whitening {chosen} {form} is not a mean m and a square P that fit"
        raise ModelError(message)
    return f"{chosen} {form} learned whitening", Affine(weight.float(), (-weight @ mean.reshape(-1)).float())


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        message = f"its state dict lacks {name}"
        raise ModelError(message)
    return state[name]
