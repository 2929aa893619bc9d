"""The forms of a trunk that are compared, each made once and kept: FP32, FP16, INT8 by us and by two libraries."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from int8_scores import Photos
from shop_photos import load_trunk, whitened

from deepir.calib.derive import plain_int8
from deepir.calib.modelopt import cut_trunk
from deepir.calib.onnx_file import prepared, read_card, read_onnx, write_onnx
from deepir.calib.quantise import int8_share
from deepir.calib.record import read_record, record_path
from deepir.card import INPUT_NAME
from deepir.errors import EngineError
from deepir.export.graph import build_onnx
from deepir.files import write_text
from deepir.gate import verdict_text

SIZE = 320
CALIBRATE = "from deepir.calib.cli import main; main()"
LIBRARIES = Path(__file__).with_name("int8_libraries.py")


@dataclass(frozen=True, slots=True)
class Work:
    """Where everything comes from and goes to.

    Attributes:
        modelopt: A Python with deepir and ModelOpt; None leaves ModelOpt out.
    """

    weights: Path
    out: Path
    photos: Photos
    modelopt: Path | None

    def path(self, trunk: str, suffix: str) -> Path:
        return self.out / f"{trunk}{suffix}.onnx"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took: seconds on the clock and of all processors, and the most memory it held, in MB."""

    seconds: float
    processor_seconds: float
    megabytes: float


def fp32_file(trunk: str, work: Work) -> Path:
    """The FP32 file of a trunk with R-MAC at 320 x 320, whitened on `train` and the references."""
    path = work.path(trunk, "")
    if not path.exists():
        trained = load_trunk(work.weights, trunk)
        model = whitened(trained, ((SIZE, SIZE),), work.photos, path.with_suffix(".safetensors"))
        write_onnx(build_onnx(model), path)
    return path


def trunk_file(model: Path) -> Path:
    """The trunk of a model file as a file of its own."""
    path = model.with_suffix(".trunk.onnx")
    if not path.exists() or path.stat().st_mtime < model.stat().st_mtime:
        write_onnx(cut_trunk(read_onnx(model)), path)
    return path


def fp16_trunk(trunk: str, work: Work) -> Path:
    """The FP32 trunk with weights rounded to FP16, and pictures and every node's result rounded to FP16 as well.

    Sums within a node stay FP32, as in tensor cores. ONNX Runtime itself would take the casts of an FP16 file out again
    and compute in FP32 on the CPU.
    """
    path = work.path(trunk, ".fp16.trunk")
    if not path.exists():
        proto = read_onnx(trunk_file(fp32_file(trunk, work)))
        _round_to_half(proto.graph)
        write_onnx(proto, path)
    return path


def our_file(trunk: str, work: Work) -> Path:
    """What deepir-calib makes of the FP32 file and `train`: all INT8, as the libraries, whatever the gate says."""
    path = work.path(trunk, ".int8")
    if not path.exists():
        _calibrate(fp32_file(trunk, work), path, work, len(work.photos.train), ["--keep-fp16", "0"])
    return path


def file_words(path: Path) -> str:
    """What an INT8 file says of itself: how much of it is INT8, and the verdicts of the gate."""
    proto = read_onnx(path)
    verdicts = [f"{verdict.program}: {verdict_text(verdict)}" for verdict in read_card(proto).gates]
    return "; ".join([f"{int8_share(proto):.0%} of the convolutions INT8", *verdicts])


def measured(trunk: str, work: Work) -> list[Path]:
    """The pictures on which our file's ranges were measured."""
    return list(read_record(record_path(our_file(trunk, work)), fp32_file(trunk, work)).images.measure)


def library_file(trunk: str, library: str, work: Work) -> Path:
    """The model with the trunk that a library quantised, on the pictures that our own ranges were measured on."""
    path = work.path(trunk, f".{library}")
    if not path.exists():
        model, images = fp32_file(trunk, work), work.out / f"{trunk}.npy"
        card = read_card(read_onnx(model))
        np.save(images, np.concatenate([feeds[INPUT_NAME] for feeds in prepared(measured(trunk, work), card)]))
        python = work.modelopt if library.startswith("modelopt") else Path(sys.executable)
        run_apart([str(python), str(LIBRARIES), library, str(model), str(images), str(path)])
        images.unlink()
    return path


def sized_file(trunk: str, count: int, work: Work) -> Path:
    """Our file from the first `count` pictures of `train` in a fixed order, ranges by the largest value, no gate."""
    path = work.path(trunk, f".{count}")
    if not path.exists():
        proto = read_onnx(fp32_file(trunk, work))
        card = read_card(proto)
        order = np.random.default_rng(0).permutation(len(work.photos.train))[:count]
        pictures = [work.photos.train[row] for row in order]
        write_onnx(plain_int8(proto, lambda: prepared(pictures, card)), path)
    return path


def calibration_cost(trunk: str, count: int, work: Work) -> Cost:
    """What deepir-calib takes for `count` pictures, gate and all."""
    path = work.path(trunk, f".cost{count}")
    kept = path.with_suffix(".json")
    if not kept.exists():
        write_text(kept, json.dumps(asdict(_calibrate(fp32_file(trunk, work), path, work, count))))
    return Cost(**json.loads(kept.read_text(encoding="utf-8")))


def _calibrate(model: Path, out: Path, work: Work, count: int, options: Sequence[str] = ()) -> Cost:
    words = [sys.executable, "-c", CALIBRATE, str(model), "--images", str(work.photos.source)]
    return run_apart([*words, "--num", str(count), *options, "-o", str(out)])


def run_apart(words: Sequence[str]) -> Cost:
    """Run a command; its lines go to stderr.

    Raises:
        EngineError: It failed.
    """
    click.echo(" ".join(words), err=True)
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=sys.stderr)  # noqa: S603 our own command lines
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        message = f"exit code {os.waitstatus_to_exitcode(status)} of: {' '.join(words)}"
        raise EngineError(message)
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def _round_to_half(graph: Any) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            with np.errstate(over="ignore"):
                halves = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            # the limits of Clip may be the largest float
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.nan_to_num(halves).astype(np.float32), tensor.name))
    nodes = _rounded(INPUT_NAME, f"{INPUT_NAME}/rounded")
    for node in graph.node:
        node.input[:] = [f"{INPUT_NAME}/rounded" if name == INPUT_NAME else name for name in node.input]
        name, node.output[0] = node.output[0], f"{node.output[0]}/exact"
        nodes += [node, *_rounded(node.output[0], name)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _rounded(source: str, target: str) -> list[Any]:
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    return [
        onnx.helper.make_node("Cast", [source], [f"{target}/half"], to=half),
        onnx.helper.make_node("Cast", [f"{target}/half"], [target], to=single),
    ]
