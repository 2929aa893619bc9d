"""Reads checkpoints of NAVER's deep-image-retrieval: GeM networks and pyramids, with their PCA (method.md 5)."""

import math
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
from deepir.distill.torch_file import PickledObject, PickledPca, as_array, tensor_of, tensors_of
from deepir.errors import ModelError, OptionError
from deepir.head import Head
from deepir.spec import Triple

_OPTIONS = {"size", "scales", "dim", "whiten", "whitenp", "whitenv", "whitenm"}
_NETWORKS = ("resnet18", "resnet50", "resnet101", "resnet152")
_FUSIONS = {"_rmac": "none", "_fpn_rmac": "fpn", "_fpn0_rmac": "fpn0"}
_POOLINGS = {"gem": "gem", "max": "max", "avg": "mean"}
_HEAD_NAMES = ("fc.", "adpool", "conv1x5.", "conv3c4.")
_POWERS = {"none": ("adpool.p",), "fpn": ("adpoolc4.p", "adpoolx5.p"), "fpn0": ("adpoolc4.p", "adpoolx5.p")}
_PYRAMID = {"fpn.conv1x1.weight": "conv1x5.weight", "fpn.conv3x3.weight": "conv3c4.weight"}
_MIDDLE = (3,)
_WHITENING, _POWER = "Landmarks_clean", 0.25
_SIZE = "1024"
_MEAN: Triple = (0.485, 0.456, 0.406)
_STD: Triple = (0.229, 0.224, 0.225)


def read_naver(content: Mapping[str, Any], options: ImportOptions) -> Parts:
    """The parts of a checkpoint that `read_torch_file` read.

    Args:
        content: `state_dict`, `model_options`, and perhaps `preprocess` and `pca`.
        options: `whiten` names a PCA of the file; without it that of Landmarks_clean, or the only one, is taken.

    Raises:
        ModelError: A network that is not one of the *_rmac family, or arrays that are missing.
        OptionError: Options that mean nothing here, or a power, number or factor out of range.
    """
    refuse_others(options, "naver", _OPTIONS)
    state = tensors_of(content.get("state_dict"))
    settings = content.get("model_options")
    settings = settings if isinstance(settings, dict) else {}
    network, fusion = _architecture(settings.get("arch"))
    head = _head(settings, fusion)
    names = dict(zip((f"pools.{place}.power" for place in range(2)), _POWERS[fusion], strict=False))
    names = (names if head.pooling == "gem" else {}) | (_PYRAMID if fusion == "fpn" else {})
    projections = {}
    if not settings.get("without_fc"):
        place = "branches.0.whitening" if fusion == "none" else "fuse"
        projections[place] = Affine(_tensor(state, "fc.weight"), _tensor(state, "fc.bias"))
    used = {*names.values(), *(("fc.weight", "fc.bias") if projections else ())}
    chosen, pca = _chosen_pca(content.get("pca"), options.whiten)
    whitenings = ["fc"] if projections else []
    if pca is not None:
        projections["projection"] = affine = fold_pca(pca, options)
        numbers = f"p {_given(options.whitenp, _POWER):g} v {len(affine.bias)} m {_given(options.whitenm, 1.0):g}"
        whitenings.append(f"{chosen} pca {numbers}")
    trunk_state = {name: value for name, value in state.items() if not name.startswith(_HEAD_NAMES)}
    preprocess = content.get("preprocess")
    preprocess = preprocess if isinstance(preprocess, dict) else {}
    return Parts(
        kind="naver",
        trunk=f"torchvision:{network}",
        state=trunk_state,
        head=head,
        projections=projections,
        tensors={ours: _tensor(state, theirs) for ours, theirs in names.items()},
        mean=as_triple(preprocess.get("mean"), _MEAN),
        std=as_triple(preprocess.get("std"), _STD),
        size=_SIZE,
        whitening=" and ".join(whitenings) or "none",
        mapped=(*trunk_state, *sorted(used)),
        left=tuple(name for name in state if name not in trunk_state and name not in used),
    )


def fold_pca(pca: PickledObject, options: ImportOptions) -> Affine:
    """Centring, components and division by m * variance ** p as one affine map (method.md 5).

    Raises:
        ModelError: The PCA lacks an array, or they disagree.
        OptionError: whitenp, whitenv or whitenm out of range.
    """
    power, factor = _given(options.whitenp, _POWER), _given(options.whitenm, 1.0)
    if not 0 <= power <= 1 or not (math.isfinite(factor) and factor > 0):
        message = f"--whitenp must be between 0 and 1 and --whitenm above 0, got {power} and {factor}"
        raise OptionError(message)
    components, mean, variances = (
        tensor_of(pca.state.get(name)) for name in ("components_", "mean_", "explained_variance_")
    )
    if components is None or mean is None or variances is None:
        message = "its PCA was not fitted: components_, mean_ or explained_variance_ is missing"
        raise ModelError(message)
    if components.ndim != 2 or (*mean.shape, *variances.shape) != (components.shape[1], len(components)):
        shapes = ", ".join(str(tuple(array.shape)) for array in (components, mean, variances))
        message = f"its PCA disagrees with itself: components, mean and variances of the shapes {shapes}"
        raise ModelError(message)
    count = len(components) if options.whitenv is None else options.whitenv
    if not 1 <= count <= len(components):
        message = f"--whitenv must be between 1 and the {len(components)} components of the PCA, got {count}"
        raise OptionError(message)
    weight = components[:count]
    if _is_true(pca.state.get("whiten")):
        weight = weight / (factor * variances[:count, None] ** power)
    return Affine(weight.float(), (-weight @ mean).float())


def _architecture(name: object) -> tuple[str, str]:
    network, underscore, suffix = str(name).partition("_")
    fusion = _FUSIONS.get(underscore + suffix)
    if network not in _NETWORKS or fusion is None:
        message = (
            f"its model_options ask for the architecture {name!r}: known are {', '.join(_NETWORKS)}, each with "
            f"{', '.join(_FUSIONS)}"
        )
        raise ModelError(message)
    return network, fusion


def _head(settings: Mapping[str, Any], fusion: str) -> Head:
    if settings.get("center_bias"):
        message = (
            f"its network weighs the middle of pictures (center_bias {settings['center_bias']}), which ours do not"
        )
        raise ModelError(message)
    normalised = bool(settings.get("norm_features"))
    pooling = str(settings.get("pooling", "gem"))
    pooling = "gem" if pooling.startswith("gem") else pooling
    if pooling not in _POOLINGS or (fusion != "none" and (pooling != "gem" or normalised)):
        message = f"its network pools with {pooling!r} and norm_features {normalised}, which the form {fusion} does not"
        raise ModelError(message)
    return Head(
        pooling=_POOLINGS[pooling],
        levels=0,
        normalise_regions=normalised,
        fusion=fusion,
        middle=() if fusion == "none" else _MIDDLE,
    )


def _chosen_pca(found: object, wanted: str | None) -> tuple[str, PickledObject | None]:
    """Newer checkpoints hold PCAs by name, older ones a single one."""
    by_name = found if isinstance(found, dict) else {"pca": found}
    available = {str(name): pca for name, pca in by_name.items() if isinstance(pca, PickledPca)}
    chosen = choose_whitening(wanted or default_whitening(list(available), _WHITENING), list(available))
    return ("none", None) if chosen is None else (chosen, available[chosen])


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        message = f"its state dict lacks {name}"
        raise ModelError(message)
    return state[name]


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _is_true(value: object) -> bool:
    array = as_array(value)
    return bool(value) if array is None else bool(array.any())
