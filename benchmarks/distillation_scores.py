"""What a model of distillation.py scores on every set at one and at three sizes, and what it costs."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from distillation_pictures import scored_pictures
from shop_photos import HalfTrunk, Photos
from torch.utils.flop_counter import FlopCounterMode

from deepir.descriptors import Descriptors, combine_resolutions
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe_files
from deepir.files import replacing
from deepir.score import score
from deepir.spec import Size

ONE: tuple[Size, ...] = ((320, 320),)
THREE: tuple[Size, ...] = ((160, 160), (320, 320), (480, 480))
RESOLUTIONS: Mapping[str, tuple[Size, ...]] = {"x1": ONE, "x3": THREE}
HALF = ("resnet50v2_c4_mxnet", "resnet101v2_c4_tfslim", "squeezenet11_mxnet")
"""Trunks that compute in bfloat16 where nothing trains them: the cosine to FP32 stays above 0.999 (photos_table.py)."""

Result = dict[str, Any]


def computes_in_half(model: Model) -> bool:
    """Whether the model's trunk is one of HALF."""
    return model.spec.backbone.removeprefix("custom:") in HALF


@contextmanager
def fast(model: Model, *, target: bool = False) -> Iterator[Model]:
    """The model, its trunk in bfloat16 while the context lasts if it is one of HALF; for targets any trunk."""
    network = model.network
    trunk = network.trunk
    network.eval()
    if target or computes_in_half(model):
        network.trunk = HalfTrunk(trunk)
    try:
        yield model
    finally:
        network.trunk = trunk


def score_model(model: Model, photos: Photos, out: Path, names: Sequence[str] = tuple(RESOLUTIONS)) -> Result:
    """Mean average precision of each set and its mean at RESOLUTIONS, with the multiply-adds of a picture of 320 x 320.

    Args:
        model: Its own sizes do not matter.
        photos: The sets.
        out: Descriptors of the scored pictures are kept there, by the weights' hash.
        names: Which of RESOLUTIONS.
    """
    pictures = scored_pictures(photos)
    row_of = {path: row for row, path in enumerate(pictures)}
    chosen = {name: RESOLUTIONS[name] for name in names}
    needed = {size for sizes in chosen.values() for size in sizes}
    at_size = {size: _described(model, pictures, size, out) for size in sorted(needed)}
    found: Result = {"parameters": model.parameters, "dim": model.network.dim}
    for name, sizes in chosen.items():
        descriptors_nd = _combined(model, [at_size[size] for size in sizes])
        found[name] = score_sets(photos, descriptors_nd, row_of) | {"multiply_adds": multiply_adds(model, sizes)}
    return found


def score_sets(photos: Photos, descriptors_nd: Descriptors, row_of: Mapping[Path, int]) -> Result:
    """What each set scores, 0..1, and the mean mAP; `row_of` gives a picture's row of the descriptors."""
    sets = {}
    for name, dataset in photos.sets.items():
        queries, database = (
            descriptors_nd[[row_of[path] for path in paths]]
            for paths in ([query.image for query in dataset.queries], dataset.database)
        )
        scores = score(dataset, queries, database)
        sets[name] = {"mean_ap": round(scores.mean_ap, 5), "recall_at_1": round(scores.recall_at[1], 5)}
    return {"sets": sets, "mean_ap": round(float(np.mean([one["mean_ap"] for one in sets.values()])), 5)}


def multiply_adds(model: Model, sizes: Sequence[Size]) -> int:
    """Of one picture at all the sizes together."""
    device = next(model.network.parameters()).device
    # it counts a multiplication and an addition as two
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for size in sizes:
            model.network(torch.zeros(1, 3, *size, device=device))
    return int(counter.get_total_flops() // 2)


def _described(model: Model, pictures: Sequence[Path], size: Size, out: Path) -> Descriptors:
    """Descriptors at one size, before what comes after the sizes are combined; those in `out` are taken as they are."""
    names = "\n".join(f"{path.parent.name}/{path.name}" for path in pictures)
    key = hashlib.sha256(f"{model.spec.at_sizes((size,)).fingerprint}\n{names}".encode()).hexdigest()[:16]
    path = out / f"{key}.npy"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        click.echo(f"{model.spec.backbone}: {len(pictures)} scored pictures at {size[0]}", err=True)
        with fast(model), _unprojected(model) as plain:
            found = list(
                chain.from_iterable(describe_files(Model(plain.network, plain.spec.at_sizes((size,))), pictures))
            )
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.stack(found))
    descriptors_nd: Descriptors = np.load(path)
    return descriptors_nd


@contextmanager
def _unprojected(model: Model) -> Iterator[Model]:
    network = model.network
    projection, network.projection = network.projection, None
    try:
        yield model
    finally:
        network.projection = projection


def _combined(model: Model, resolutions: Sequence[Descriptors]) -> Descriptors:
    combined = combine_resolutions(np.stack(resolutions), model.spec.head.combine)
    with torch.inference_mode():
        device = next(model.network.parameters()).device
        projected: Descriptors = model.network.project(torch.from_numpy(combined).to(device)).cpu().numpy()
    return projected
