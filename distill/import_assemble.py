"""Builds the model out of what an importer found, refusing what does not fit."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.import_plan import Affine, ImportOptions, ImportReport, Parts
from deepir.distill.layers import WhiteningLayer
from deepir.distill.network import RMacNetwork
from deepir.distill.state import load_state
from deepir.errors import ModelError, OptionError
from deepir.files import file_sha256
from deepir.spec import parse_scales, parse_size
from deepir.whitening import Whitening

_SHORT_HASH = 12


def assemble(parts: Parts, path: Path, options: ImportOptions) -> tuple[Model, ImportReport]:
    """Build the model that the parts describe.

    Raises:
        ModelError: A tensor that is missing, of another shape, or not finite.
        OptionError: Options that the model cannot have.
    """
    trunk = build_trunk(parts.trunk, middle=parts.head.middle)
    _check_finite(path, {**parts.state, **parts.tensors})
    unneeded = load_state(trunk.module, parts.state, str(path))
    trunk = dataclasses.replace(trunk, mean=parts.mean or trunk.mean, std=parts.std or trunk.std)
    size = parse_size(options.size or parts.size)
    stretched = "x" in (options.size or parts.size)
    model = new_model(
        trunk,
        sizes=parse_scales(options.scales or parts.scales, size),
        head=parts.head,
        resize="stretch" if stretched else "longest",
        interpolation=parts.interpolation,
    )
    _add_tensors(model.network, parts.tensors, path)
    projections = _cut(parts.projections, model.network, options.dim)
    for name in sorted(projections):
        _add_projection(model.network, name, projections[name], path)
    whitening = _provenance(parts.whitening, path, options.dim)
    model = Model(model.network.eval(), model.spec).sealed(whitening=whitening)
    mapped = tuple(name for name in parts.mapped if name not in unneeded)
    return model, ImportReport(parts.kind, parts.trunk, mapped, (*parts.left, *unneeded), whitening, parts.notes)


def _cut(projections: dict[str, Affine], network: RMacNetwork, dim: int | None) -> dict[str, Affine]:
    """Keep the first `dim` values of the projection that comes last."""
    if dim is None:
        return projections
    lone_branch = ["branches.0.whitening"] if len(network.branches) == 1 else []
    last = next((name for name in ("projection", "fuse", *lone_branch) if name in projections), None)
    if last is None:
        message = (
            "--dim keeps values of a trained projection, and this file has none: fit one with deepir-distill whiten"
        )
        raise OptionError(message)
    return {**projections, last: projections[last].first(dim)}


def _add_projection(network: RMacNetwork, name: str, affine: Affine, path: Path) -> None:
    """Called in the order branches, fuse, projection: each must take what the ones before it give."""
    branch = network.branch_list[int(name.split(".")[1])] if name.startswith("branches.") else None
    wanted = branch.channels if branch is not None else network.dim
    width = affine.weight.shape[-1]
    vectors = (affine.bias.shape, *(part.shape for part in (affine.shift, affine.scale) if part is not None))
    expected = (affine.weight.shape[:1], *[(width,)] * (len(vectors) - 1))
    if affine.weight.ndim != 2 or width != wanted or vectors != expected:
        message = (
            f"{path} does not fit: its {name} of shape {tuple(affine.weight.shape)} with vectors of "
            f"{', '.join(str(shape[0]) for shape in vectors if shape) or 'no'} values follows {wanted} values"
        )
        raise ModelError(message)
    _check_finite(path, {f"{name}.weight": affine.weight, f"{name}.bias": affine.bias})
    weights = Whitening(affine.weight.float().numpy(), affine.bias.float().numpy())
    layer = WhiteningLayer.of(weights, shift=affine.shift, scale=affine.scale)
    if branch is not None:
        branch.whitening = layer
    else:
        setattr(network, name, layer)


def _add_tensors(network: RMacNetwork, tensors: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    for name, value in tensors.items():
        if name not in own or own[name].shape != value.shape:
            shape = tuple(own[name].shape) if name in own else "no such tensor"
            message = f"{path} does not fit: {name} has shape {tuple(value.shape)}, the network {shape}"
            raise ModelError(message)
        if name.endswith(".power") and not (value > 0).all():
            message = f"{path} does not fit: its generalised mean has the power {value.tolist()}, which must be above 0"
            raise ModelError(message)
        own[name].copy_(value)


def _check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            message = f"{path} holds NaN or infinity in {name}: the file is damaged, or its whitening has no variance"
            raise ModelError(message)
        if name.endswith("running_var") and (value < 0).any():
            message = f"{path} holds a negative variance in {name}: the file is damaged"
            raise ModelError(message)


def _provenance(whitening: str, path: Path, dim: int | None) -> str:
    if whitening == "none":
        return whitening
    cut = "" if dim is None else f", first {dim} values"
    return f"{whitening}{cut}, from {path.name} sha256 {file_sha256(path)[:_SHORT_HASH]}"
