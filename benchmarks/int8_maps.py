"""What a form of a trunk gives for pictures: every pooling from one map, kept on disk a few pictures at a time."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import click
import numpy as np
import openvino

from deepir.calib.onnx_file import open_session, prepared, read_onnx
from deepir.card import INPUT_NAME, ModelCard
from deepir.files import file_sha256, replacing
from deepir.graph_names import MAP_NAME
from deepir.head import Head
from deepir.pooling import GEM_FLOOR, GEM_POWER, FloatArray, roi_pool
from deepir.regions import head_windows

POOLINGS = {
    "R-MAC": Head(),
    "MAC": Head(levels=0),
    "SPoC": Head(pooling="mean", levels=0),
    "GeM": Head(pooling="gem", levels=0),
}
EXTENT = "extent"
"""(N, 1, 2): the largest value of each map and its 99.99th percentile."""

PERCENTILE = 99.99
CODES = 127
CHUNK = 128
SECONDS_BETWEEN_LINES = 30.0

Pooled = dict[str, FloatArray]
"""By the name of the pooling (N, R, C), not normalised."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form of a trunk, and the program that runs it."""

    name: str
    path: Path
    program: str


@dataclass(frozen=True, slots=True)
class GemRanges:
    """What becomes the code 127 where GeM itself is quantised: the map, its cubes, their mean, the root of that."""

    cells: float
    cubes: float
    means: float
    roots: float


def pooled(
    form: Form, card: ModelCard, pictures: Sequence[Path], out: Path, through: Mapping[str, GemRanges]
) -> Pooled:
    """All poolings of the maps of pictures, in order; chunks that an earlier run left in `out` are taken as they are.

    Args:
        form: A trunk file.
        card: Of the model that it was cut from.
        pictures: Chunks are kept by the names of their pictures.
        out: Where to keep them.
        through: By name, further poolings: GeM with every step quantised to such ranges.
    """
    key = hashlib.sha256(str(sorted((name, astuple(ranges)) for name, ranges in through.items())).encode()).hexdigest()
    folder = out / f"{form.path.stem} {form.program} {file_sha256(form.path)[:12]} {key[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    run: Callable[[FloatArray], FloatArray] | None = None
    chunks, said = [], time.monotonic()
    for start in range(0, len(pictures), CHUNK):
        chunk = pictures[start : start + CHUNK]
        names = " ".join(f"{picture.parent.name}/{picture.name}" for picture in chunk)
        path = folder / f"{hashlib.sha256(names.encode()).hexdigest()[:16]}.npz"
        if not path.exists():
            run = run or open_trunk(form)
            found = [_pool(run(feeds[INPUT_NAME]), card, through) for feeds in prepared(chunk, card)]
            arrays = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
            with replacing(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **arrays)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                click.echo(f"{folder.name}: {start + len(chunk)} of {len(pictures)}", err=True)
        with np.load(path) as stored:
            chunks.append(dict(stored))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def open_trunk(form: Form) -> Callable[[FloatArray], FloatArray]:
    """What gives the maps (N, C, h, w) of prepared pictures (N, 3, H, W)."""
    if form.program == "openvino":
        core = openvino.Core()
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(core.read_model(form.path), "CPU", options).create_infer_request()
        return lambda images: request.infer({INPUT_NAME: images}, share_outputs=False)[0]
    session = open_session(read_onnx(form.path))
    return lambda images: session.run([MAP_NAME], {INPUT_NAME: images})[0]


def gem_ranges(fp32: Pooled, rows: Sequence[int]) -> dict[str, GemRanges]:
    """Ranges of GeM's steps from the FP32 maps of the calibration pictures: the largest values, or the percentile."""
    extents = fp32[EXTENT][rows, 0]
    roots = fp32["GeM"][rows]
    low, high = float(extents[:, 1].mean()), float(extents[:, 0].max())
    low_root, high_root = float(np.percentile(roots, PERCENTILE)), float(roots.max())
    return {
        "GeM quantised through, max": _ranges(high, high_root),
        "GeM quantised through, 99.99 %": _ranges(low, low_root),
    }


def _ranges(cell: float, root: float) -> GemRanges:
    return GemRanges(cell, cell**GEM_POWER, root**GEM_POWER, root)


def _pool(map_nchw: FloatArray, card: ModelCard, through: Mapping[str, GemRanges]) -> Pooled:
    found = {}
    for name, head in POOLINGS.items():
        windows = head_windows(head, card.spec.size, map_nchw.shape[2:], card.spec.stride)
        found[name] = roi_pool(map_nchw, windows, head.pooling)
    for name, ranges in through.items():
        found[name] = quantised_gem(map_nchw, ranges)
    cells_nk = map_nchw.reshape(len(map_nchw), -1)
    found[EXTENT] = np.stack([cells_nk.max(axis=1), np.percentile(cells_nk, PERCENTILE, axis=1)], axis=1)[:, None]
    return found


def quantised_gem(map_nchw: FloatArray, ranges: GemRanges) -> FloatArray:
    """GeM over the whole map, (N, 1, C), as INT8 from map to root: a Q/DQ pair after each step."""
    cells = _quantised(np.maximum(map_nchw, GEM_FLOOR), ranges.cells)
    cubes = _quantised(cells**GEM_POWER, ranges.cubes)
    means = _quantised(cubes.mean(axis=(2, 3)), ranges.means)
    return _quantised(means ** (1 / GEM_POWER), ranges.roots)[:, None]


def _quantised(values: FloatArray, largest: float) -> FloatArray:
    step = np.float32(largest / CODES)
    rounded: FloatArray = np.clip(np.rint(values / step), -CODES - 1, CODES) * step
    return rounded
