"""Pretrained trunks as they come: poolings, whitenings and resolutions on every set of a photo benchmark.

    python benchmarks/photos_table.py --photos DIR --weights DIR [--trunk NAME ...] [--exact] [-o runs/photos_table]

PHOTOS holds benchmark.json and its pictures, WEIGHTS holds archs.py (`build(name) -> (module, spec)`) and its files.
A trunk sees each picture once at each size; R-MAC, MAC, GeM and SPoC are pooled from the same map and stay in OUT as
16-bit numbers, so that an interrupted run goes on. Trunks compute in bfloat16 where that hardly changes descriptors,
with --exact never. Whitening is fitted on `train`, or on `train` and the reference pictures with equal weight, since an
index knows its references; no other scored picture is seen by anything. Give OMP_NUM_THREADS=1 on a busy machine.
"""

import json
import runpy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from deepir.datasets import RetrievalSet, read_retrieval_sets, read_training_images
from deepir.descriptors import Descriptors, combine_resolutions, normalise
from deepir.errors import InputError, reports_errors
from deepir.files import replacing, write_text
from deepir.head import Head
from deepir.image import prepare, read_image
from deepir.pooling import FloatArray, roi_pool
from deepir.regions import head_windows
from deepir.score import score
from deepir.spec import ModelSpec
from deepir.whitening import Whitening, fit_whitening

TRUNKS = (
    "squeezenet11_mxnet",
    "mobilenetv2_mxnet_bn",
    "mobilenetv2_torchvision_folded",
    "resnet50v2_c4_mxnet",
    "resnet101v2_c4_tfslim",
)
REFERENCES = "grocery_nat2ref"
SIZES = (320, 160, 480)
RESOLUTIONS = {"320": (320,), "160+320+480": (160, 320, 480)}
POOLINGS = {"R-MAC": ("max", 2), "MAC": ("max", 0), "GeM": ("gem", 0), "SPoC": ("mean", 0)}
HEADS = {name: Head(pooling=pooling, levels=levels) for name, (pooling, levels) in POOLINGS.items()}
WHITENINGS = ("none", "train", "train+references")
DIM = 256
POWER = 0.25
BATCH = 4
COMPARED = 20
LEAST_COSINE = 0.999
SECONDS_BETWEEN_LINES = 30.0

Vectors = list[NDArray[np.float16]]
"""For each picture its pooled vectors of length 1, (R, C): regions of R-MAC, a single one of the other poolings."""

Pooled = dict[str, Vectors]
"""By the name of the pooling."""


@dataclass(frozen=True, slots=True)
class Photos:
    """The pictures by the part they play; `pictures` are all of them, in the order of every array here."""

    sets: dict[str, RetrievalSet]
    train: list[Path]
    references: list[Path]
    pictures: list[Path]


@dataclass(frozen=True, slots=True)
class Trunk:
    """A network, what its input must be, and whether it computes in bfloat16."""

    name: str
    module: torch.nn.Module
    spec: ModelSpec
    numerics: str = "fp32"

    def map_of(self, images_nchw: FloatArray) -> FloatArray:
        images = torch.from_numpy(images_nchw).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.numerics == "bfloat16"):
            map_nchw: FloatArray = self.module(images).float().numpy()
        return map_nchw


def read_photos(folder: Path) -> Photos:
    source = folder / "benchmark.json"
    sets = read_retrieval_sets(source)
    train = [image.path for image in read_training_images(source)]
    scored = {path for entry in sets.values() for path in (*entry.database, *(query.image for query in entry.queries))}
    return Photos(sets, train, list(sets[REFERENCES].database), sorted(scored | set(train)))


def load_trunk(weights: Path, name: str) -> Trunk:
    path = weights / "archs.py"
    if not path.is_file():
        message = f"no such file: {path}; --weights must name the folder that holds archs.py"
        raise InputError(message)
    module, facts = runpy.run_path(str(path))["build"](name)
    spec = ModelSpec(
        backbone=f"custom:{name}",
        sizes=tuple((size, size) for size in SIZES),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        stride=facts["stride"],
        channels=facts["dim"],
        dim=facts["dim"],
        resize="longest",
    )
    return Trunk(name, module.to(memory_format=torch.channels_last), spec)


def pool(map_nchw: FloatArray, height: int, width: int, stride: int) -> dict[str, FloatArray]:
    """All poolings of the maps of images of height x width pixels: (N, R, C) each, rows of length 1."""
    return {
        name: normalise(
            roi_pool(map_nchw, head_windows(head, (height, width), map_nchw.shape[2:], stride), head.pooling)
        )
        for name, head in HEADS.items()
    }


def pooled_at(trunk: Trunk, pictures: Sequence[Path], size: int, out: Path) -> Pooled:
    """The pooled vectors of all pictures at one size; those that an earlier run left in `out` are taken as they are."""
    path = out / f"{trunk.name} {size} {trunk.numerics}.npz"
    names = np.array([f"{picture.parent.name}/{picture.name}" for picture in pictures])
    if path.exists():
        with np.load(path) as stored:
            if np.array_equal(stored["names"], names):
                ends = np.cumsum(stored["regions"])[:-1]
                return {name: np.split(stored[name], ends if name == "R-MAC" else len(names)) for name in HEADS}
    pooled = extract(trunk, pictures, size)
    regions = [len(vectors_rc) for vectors_rc in pooled["R-MAC"]]
    arrays = {name: np.concatenate(found) for name, found in pooled.items()}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, names=names, regions=regions, **arrays)
    return pooled


def extract(trunk: Trunk, pictures: Sequence[Path], size: int) -> Pooled:
    pooled = {name: [np.empty((0, 0), np.float16)] * len(pictures) for name in HEADS}
    started = said = time.monotonic()
    done = 0
    for rows, images_nchw in _batches(pictures, trunk.spec, size):
        found = pool(trunk.map_of(images_nchw), *images_nchw.shape[2:], trunk.spec.stride)
        for name, vectors_nrc in found.items():
            for row, vectors_rc in zip(rows, vectors_nrc, strict=True):
                pooled[name][row] = vectors_rc.astype(np.float16)
        done += len(rows)
        if time.monotonic() - said > SECONDS_BETWEEN_LINES or done == len(pictures):
            said = time.monotonic()
            _say(f"{trunk.name} at {size}: {done} of {len(pictures)}, {1000 * (said - started) / done:.0f} ms each")
    return pooled


def _batches(pictures: Sequence[Path], spec: ModelSpec, size: int) -> Iterator[tuple[list[int], FloatArray]]:
    """Prepared pictures of equal shape with their row numbers; shapes that stay few come last."""
    waiting: dict[tuple[int, ...], list[tuple[int, FloatArray]]] = {}
    for row, picture in enumerate(pictures):
        prepared = prepare(read_image(picture), spec, (size, size))
        group = waiting.setdefault(prepared.shape, [])
        group.append((row, prepared))
        if len(group) == BATCH:
            yield [row for row, _ in group], np.concatenate([image for _, image in group])
            group.clear()
    for group in filter(None, waiting.values()):
        yield [row for row, _ in group], np.concatenate([image for _, image in group])


def in_half_precision(trunk: Trunk, pictures: Sequence[Path]) -> Trunk:
    """The trunk in bfloat16 if its descriptors, not whitened, stay those of FP32 on a few pictures, else as it is."""
    mixed = replace(trunk, numerics="bfloat16")
    few = pictures[:: len(pictures) // COMPARED][:COMPARED]
    pairs = [extract(each, few, SIZES[0]) for each in (mixed, trunk)]
    cosines = {name: (describe(pairs[0][name]) * describe(pairs[1][name])).sum(axis=1) for name in HEADS}
    chosen = mixed if min(cosine.min() for cosine in cosines.values()) >= LEAST_COSINE else trunk
    each = ", ".join(f"{name} {cosine.min():.5f} {cosine.mean():.5f}" for name, cosine in cosines.items())
    _say(f"{trunk.name} computes in {chosen.numerics}; least and mean cosine of bfloat16 and FP32: {each}")
    return chosen


def fitted(resolutions: Sequence[Vectors], groups: Sequence[Sequence[int]]) -> Whitening | None:
    """PCA of the vectors of all sizes; each group of pictures weighs the same."""
    if not groups:
        return None
    vectors = [np.concatenate([found[row] for found in resolutions for row in group]) for group in groups]
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in vectors])
    return fit_whitening(np.concatenate(vectors).astype(np.float32), DIM, power=POWER, weights_n=weights)


def describe(vectors: Vectors, whitening: Whitening | None = None) -> Descriptors:
    """Whiten, L2, sum over a picture's vectors, L2: (N, D)."""
    rows = np.concatenate(vectors).astype(np.float32)
    if whitening is not None:
        rows = normalise(rows @ whitening.weight_dc.T + whitening.bias_d)
    starts = np.cumsum([0, *map(len, vectors)])[:-1]
    return normalise(np.add.reduceat(rows, starts, axis=0))


def score_trunk(trunk: Trunk, pooled: dict[int, Pooled], photos: Photos) -> Iterator[dict[str, Any]]:
    """One result for each pooling, choice of sizes and whitening."""
    row_of = {path: row for row, path in enumerate(photos.pictures)}
    train, references = ([row_of[path] for path in paths] for paths in (photos.train, photos.references))
    groups = dict(zip(WHITENINGS, ([], [train], [train, references]), strict=True))
    for pooling, sizes, whitening in product(HEADS, RESOLUTIONS, WHITENINGS):
        resolutions = [pooled[size][pooling] for size in RESOLUTIONS[sizes]]
        fit = fitted(resolutions, groups[whitening])
        descriptors = combine_resolutions(np.stack([describe(vectors, fit) for vectors in resolutions]))
        sets = {name: _score(dataset, descriptors, row_of) for name, dataset in photos.sets.items()}
        scored = list(sets.values())
        sets["mean"] = {key: float(np.mean([each[key] for each in scored])) for key in ("mean_ap", "recall_at_1")}
        choice = {"pooling": pooling, "sizes": sizes, "whitening": whitening}
        yield {"trunk": trunk.name, "numerics": trunk.numerics, **choice, "sets": sets}


def _score(dataset: RetrievalSet, descriptors: Descriptors, row_of: dict[Path, int]) -> dict[str, Any]:
    queries = descriptors[[row_of[query.image] for query in dataset.queries]]
    scores = score(dataset, queries, descriptors[[row_of[path] for path in dataset.database]])
    precisions = [round(value, 4) for value in scores.average_precisions]
    return {"mean_ap": scores.mean_ap, "recall_at_1": scores.recall_at[1], "average_precisions": precisions}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: mAP in percent; a cell holds one number for each whitening."""
    columns = list(results[0]["sets"])
    rows = [["trunk", "pooling", "sizes", *columns], ["---"] * 3 + ["---:"] * len(columns)]
    for start in range(0, len(results), len(WHITENINGS)):
        group = results[start : start + len(WHITENINGS)]
        cells = [" / ".join(f"{100 * each['sets'][name]['mean_ap']:.1f}" for each in group) for name in columns]
        rows.append([group[0]["trunk"], group[0]["pooling"], group[0]["sizes"], *cells])
    return _markdown(rows)


def effects(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: the points of mAP that one change brings, all else equal: the mean over all pairs, least and greatest.

    Sizes and poolings are compared where both sides are whitened on `train` and the references.
    """
    setting = ("trunk", "pooling", "sizes", "whitening")
    found = {tuple(result[name] for name in setting): result["sets"] for result in results}
    changes = [
        *((WHITENINGS[0], whitening) for whitening in WHITENINGS[1:]),
        tuple(RESOLUTIONS),
        *((pooling, "R-MAC") for pooling in HEADS if pooling != "R-MAC"),
    ]
    columns = list(results[0]["sets"])
    rows = [["change", "pairs", *columns], ["---", "---:"] + ["---:"] * len(columns)]
    for before, after in changes:
        keys = [key for key in found if before in key and (key[-1] == WHITENINGS[-1] or before == WHITENINGS[0])]
        pairs = [(found[key], found[tuple(after if value == before else value for value in key)]) for key in keys]
        cells = []
        for name in columns:
            gains = [100 * (late[name]["mean_ap"] - early[name]["mean_ap"]) for early, late in pairs]
            cells.append(f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})")
        rows.append([f"{before} -> {after}", str(len(pairs)), *cells])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command(context_settings={"show_default": True})
@click.option("--photos", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), required=True)
@click.option("--trunk", "names", multiple=True, default=TRUNKS, help="A trunk of archs.py.")
@click.option("--exact", is_flag=True, help="Trunks compute in FP32.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/photos_table"))
@reports_errors
def main(folder: Path, weights: Path, names: tuple[str, ...], out: Path, *, exact: bool) -> None:
    """Score pretrained trunks with four poolings, three whitenings, one and three sizes."""
    out.mkdir(parents=True, exist_ok=True)
    photos = read_photos(folder)
    _say(f"{len(photos.pictures)} pictures, {len(photos.train)} of them train, {len(photos.references)} references")
    trunks = [load_trunk(weights, name) for name in names]
    if not exact:
        trunks = [in_half_precision(trunk, photos.pictures) for trunk in trunks]
    for size, trunk in product(SIZES, trunks):
        pooled_at(trunk, photos.pictures, size, out)
    results = []
    for trunk in trunks:
        pooled = {size: pooled_at(trunk, photos.pictures, size, out) for size in SIZES}
        results += list(score_trunk(trunk, pooled, photos))
        _say(f"{trunk.name}: scored")
    write_text(out / "results.json", json.dumps(results))
    click.echo(f"mAP in percent, whitening: {' / '.join(WHITENINGS)}\n\n{table(results)}\n\n{effects(results)}")


if __name__ == "__main__":
    main()
