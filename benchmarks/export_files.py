"""The files that benchmarks/export.py times: checkpoints, their ONNX forms, and poolings on their own."""

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from export_torch import TorchvisionPool
from export_ways import Network, PoolShape, pool_path
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepir.calib.derive import plain_int8
from deepir.calib.onnx_file import open_session, read_card, write_card, write_onnx
from deepir.calib.quantise import int8_share
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import load_model, new_model, save_model
from deepir.export.dynamic_pool import dynamic_pool_function
from deepir.export.engine import BuildConfig, build_engine
from deepir.export.graph import build_onnx
from deepir.export.pool_graph import DOMAIN, OPSET, pool_function
from deepir.export.routes import native_form
from deepir.graph_names import POOL_OPERATOR
from deepir.image import list_images, read_image
from deepir.pooling import roi_max_pool
from deepir.runtime.openvino_model import compile_file, compiled_path
from deepir.runtime.self_check import proof_inputs
from deepir.runtime.tensorrt_library import Flavour
from deepir.spec import Numerics
from deepir.whitening import Whitening

CALIBRATED_WITH = 16


def write_checkpoint(network: Network, weights: Path | None, out: Path) -> None:
    """A model with a square whitening layer of random weights."""
    torch.manual_seed(0)
    model = new_model(build_trunk(network.trunk, weights=weights), sizes=network.sizes)
    dim = model.network.dim
    weight = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    model.network.whiten_with(Whitening(weight.astype(np.float32), np.zeros(dim, np.float32)))
    save_model(model.sealed(), out)


def write_fp32(checkpoint: Path, out: Path) -> float:
    """The ONNX master; gives the seconds of the export."""
    model = load_model(checkpoint)
    model.network.eval()
    started = time.perf_counter()
    write_onnx(build_onnx(model), out)
    return time.perf_counter() - started


def write_int8(master: Path, photos: Path | None, out: Path) -> tuple[float, float]:
    """The Q/DQ form, with ranges of a few pictures; gives the seconds and the share of INT8 convolutions."""
    proto = onnx.load(master)
    card = read_card(proto)
    pictures = [] if photos is None else [read_image(path) for path in list_images(photos)[:CALIBRATED_WITH]]
    inputs = list(proof_inputs(card, pictures))[:CALIBRATED_WITH]
    batches = [dict(zip(card.inputs(), arrays, strict=True)) for arrays in inputs]
    started = time.perf_counter()
    quantised = plain_int8(proto, lambda: batches)
    seconds = time.perf_counter() - started
    write_card(quantised, replace(card, numerics=Numerics.INT8))
    write_onnx(quantised, out)
    return seconds, int8_share(quantised)


def compile_openvino(path: Path, folder: Path) -> tuple[float, float, int]:
    """Seconds to compile and to load what was compiled, and the bytes of it."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        compile_file(path, "auto", 0, folder)
        times.append(time.perf_counter() - started)
    return times[0], times[1], compiled_path(path, "auto", folder).stat().st_size


def build_tensorrt(path: Path, flavour: Flavour, out: Path) -> tuple[float, int, str]:
    """Seconds of the build, bytes of the plan, and what its convolutions compute in."""
    record = build_engine(path, out, BuildConfig(flavour=flavour, timing_cache=False), lambda _: None)
    count = record.precision
    return record.build_seconds, record.engine_bytes, f"{count.int8} of {count.convolutions} convolutions INT8"


def write_pools(shape: PoolShape, folder: Path) -> dict[str, str]:
    """Every form of the pooling as FOLDER/NAME.onnx; gives for each its largest error, or why there is none."""
    forms: dict[str, Callable[[PoolShape], Any]] = {
        "static body": _static_pool,
        "dynamic body": _dynamic_pool,
        "Slice and ReduceMax": _slice_pool,
        "torchvision, TorchScript exporter": lambda one: _torchvision_pool(one, dynamo=False),
        "torchvision, dynamo exporter": lambda one: _torchvision_pool(one, dynamo=True),
    }
    return {name: _write_pool(form, shape, pool_path(folder, name)) for name, form in forms.items()}


def _write_pool(form: Callable[[PoolShape], Any], shape: PoolShape, path: Path) -> str:
    try:
        proto = form(shape)
    except Exception as error:  # that an exporter gives up is a result
        return f"does not export ({type(error).__name__})"
    path.write_bytes(proto.SerializeToString())
    found = open_session(proto).run(None, {"x": shape.cells})[0]
    return f"{np.abs(found - roi_max_pool(shape.cells, shape.windows)).max():.0e}"


def _static_pool(shape: PoolShape) -> Any:
    return _with_function(shape, pool_function(POOL_OPERATOR, shape.windows, (shape.side, shape.side)))


def _dynamic_pool(shape: PoolShape) -> Any:
    return _with_function(shape, dynamic_pool_function(POOL_OPERATOR))


def _with_function(shape: PoolShape, function: Any) -> Any:
    node = helper.make_node(POOL_OPERATOR, ["x", "rois"], ["y"], domain=DOMAIN)
    proto = _model(shape, [node], {"rois": shape.windows.astype(np.int32)})
    proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    proto.functions.append(function)
    return native_form(proto)


def _slice_pool(shape: PoolShape) -> Any:
    constants: dict[str, NDArray[Any]] = {"axes": np.array([2, 3], np.int64)}
    nodes = []
    for number, window in enumerate(shape.windows.astype(np.int64)):
        constants |= {f"begin_{number}": window[:2], f"end_{number}": window[2:]}
        names = ["x", f"begin_{number}", f"end_{number}", "axes"]
        nodes.append(helper.make_node("Slice", names, [f"part_{number}"]))
        nodes.append(helper.make_node("ReduceMax", [f"part_{number}"], [f"row_{number}"], axes=[2, 3], keepdims=0))
        nodes.append(helper.make_node("Unsqueeze", [f"row_{number}", "region_axis"], [f"region_{number}"]))
    constants["region_axis"] = np.array([1], np.int64)
    regions = [f"region_{number}" for number in range(len(shape.windows))]
    return _model(shape, [*nodes, helper.make_node("Concat", regions, ["y"], axis=1)], constants)


def _model(shape: PoolShape, nodes: list[Any], constants: dict[str, NDArray[Any]]) -> Any:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape.cells.shape))
    wanted = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(shape.windows), shape.channels])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "pool", [given], [wanted], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _torchvision_pool(shape: PoolShape, *, dynamo: bool) -> Any:
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        path = Path(folder) / "pool.onnx"
        module = TorchvisionPool(shape.windows).eval()
        cells = (torch.from_numpy(shape.cells),)
        torch.onnx.export(
            module, cells, str(path), dynamo=dynamo, opset_version=18, input_names=["x"], output_names=["y"]
        )
        return onnx.load(path)
