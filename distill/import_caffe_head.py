"""What follows the trunk in a .caffemodel: which student it is, and its projections (method.md 2.1, 4.2, 4.3, 4.5)."""

import re
from dataclasses import dataclass, field

from torch import Tensor

from deepir.distill.caffe_file import Layer
from deepir.distill.caffe_weights import Blobs, read_affine, read_unit
from deepir.distill.import_plan import Affine, ImportOptions, choose_whitening, default_whitening
from deepir.errors import ModelError, OptionError

_PROJECTION = re.compile(r"pooled_rois(_\d+)?(/concat)?/pca(_\d+)?")
_CLASSIFIER = re.compile(r"(fc|cls|classifier)[\w/-]*")
_STAGE_OF_CHANNELS = {1024: 3, 512: 2, 256: 1}
_LAST_CHANNELS = 2048
_BRANCH, _BRANCH_SHIFT = "pooled_rois_branch_1/pca", "pooled_rois_branch_1/centered"
_JOINED, _JOINED_SHIFT = "rmac/pca", "rmac/centered"
_SERIAL, _SERIAL_SHIFT = "pooled_rois/reduce", "pooled_rois/shift"
_WIDENING = ("res5a_branch2", "bn5a_branch2", "scale5a_branch2")


@dataclass(slots=True, kw_only=True)
class CaffeHead:
    """The layers after the trunk, in our words; filled as they are found."""

    fusion: str = "none"
    middle: tuple[int, ...] = ()
    projections: dict[str, Affine] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    whitening: str = "none"
    mapped: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_head(blobs: Blobs, layers: list[Layer], options: ImportOptions) -> CaffeHead:
    """Find out which model the layers beyond the trunk make, and read them.

    Args:
        blobs: Weights of the layers beyond the trunk, by name.
        layers: All layers of the file, for the ReLU of the concat-pca-relu student.
        options: `whiten` names the projection of the regions, `none` leaves it out; `relu` overrules the file.

    Raises:
        ModelError: Layers with weights that no known model has, or arrays that do not fit.
        OptionError: No such projection, or a ReLU for a model without a place for it.
    """
    head = CaffeHead()
    candidates = sorted((name for name in blobs if _PROJECTION.fullmatch(name)), key=lambda name: blobs[name][0].size)
    # a student trained beside its frozen teacher projection is the narrower one (method.md 4.5)
    wanted = choose_whitening(options.whiten or default_whitening(candidates[:1]), candidates)
    if _WIDENING[0] in blobs:
        head.fusion, head.middle = "1x1conv-eltwise-pca", (3,)
        head.tensors = read_unit(blobs, _WIDENING, "adapter.0", "adapter.1")
        head.mapped += _WIDENING
    if wanted is not None:
        _read_regions(head, blobs, wanted)
    if _JOINED in blobs:
        _read_joined(head, blobs)
    elif _SERIAL in blobs and wanted is not None:
        _read_into(head, blobs, "fuse", _SERIAL, _SERIAL_SHIFT)
    _set_relu(head, wanted, layers, options.relu)
    head.left = tuple(name for name in blobs if name not in head.mapped)
    _check_left(head, candidates)
    head.whitening = " and ".join(name for name in head.mapped if name in (*candidates, _JOINED, _SERIAL)) or "none"
    return head


def _read_regions(head: CaffeHead, blobs: Blobs, name: str) -> None:
    """The projection of each region; one that is wider than the last map takes a middle one too."""
    beside = f"{name.rpartition('/')[0]}/centered"
    affine = _read_into(
        head, blobs, "branches.0.whitening", name, beside if beside in blobs else "pooled_rois/centered"
    )
    stage = _STAGE_OF_CHANNELS.get(affine.weight.shape[1] - _LAST_CHANNELS)
    if head.fusion == "none" and stage is not None:
        head.fusion, head.middle = "concat-pca", (stage,)


def _read_joined(head: CaffeHead, blobs: Blobs) -> None:
    """The pca-concat-pca student: a branch on a middle map, joined with the main one before the last projection."""
    if head.fusion != "none" or not head.projections:
        message = f"the layer {_JOINED} joins two projections of regions, and the main one is missing or left out"
        raise ModelError(message)
    head.projections["branches.1.whitening"] = head.projections.pop("branches.0.whitening")
    affine = _read_into(head, blobs, "branches.0.whitening", _BRANCH, _BRANCH_SHIFT)
    _read_into(head, blobs, "fuse", _JOINED, _JOINED_SHIFT)
    head.fusion, head.middle = "pca-concat-pca", (_STAGE_OF_CHANNELS.get(affine.weight.shape[1], 3),)


def _read_into(head: CaffeHead, blobs: Blobs, place: str, projection: str, shift: str) -> Affine:
    affine = read_affine(blobs, projection, shift)
    head.projections[place] = affine
    head.mapped += tuple(name for name in (shift, projection) if name in blobs)
    return affine


def _set_relu(head: CaffeHead, projection: str | None, layers: list[Layer], wanted: bool | None) -> None:
    """The ReLU of the concat-pca-relu student: its deploy file forgot it, the weights of its training list it."""
    if head.fusion != "concat-pca":
        if wanted is not None:
            message = f"only the concat-pca students have a place for a ReLU, this is {head.fusion}: leave --relu out"
            raise OptionError(message)
        return
    listed = any(layer.type == "ReLU" and projection in layer.inputs for layer in layers)
    if listed if wanted is None else wanted:
        head.fusion = "concat-pca-relu"
    elif wanted is None:
        head.notes += ("the file lists no ReLU after the projection: import the concat-pca-relu student with --relu",)


def _check_left(head: CaffeHead, candidates: list[str]) -> None:
    unknown = [
        name
        for name in head.left
        if name not in candidates and not name.endswith("/centered") and not _CLASSIFIER.fullmatch(name)
    ]
    if unknown:
        message = (
            f"layers with weights belong to no model that is known, {len(unknown)} of them, the first is "
            f"{unknown[0]!r}: without them its descriptors would be others"
        )
        raise ModelError(message)
