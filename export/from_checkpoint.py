"""The FP32 master of a checkpoint: the one part of an export that needs torch."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from deepir.calib.onnx_file import write_onnx
from deepir.distill.checkpoint import Model, load_model
from deepir.export.graph import build_onnx
from deepir.export.options import ExportOptions
from deepir.export.verify import FP32_TOLERANCE, prove
from deepir.runtime.progress import Report
from deepir.spec import ModelSpec


def write_master(source: Path, options: ExportOptions, pictures: Sequence[Path], report: Report) -> Path:
    """Export a checkpoint, prove that it is the same function, and write it as OUT/NAME.onnx.

    Raises:
        ModelError: The checkpoint is damaged.
        OptionError: It cannot be exported at these sizes.
        GateError: The file is not the same function.
    """
    loaded = load_model(source)
    model = Model(loaded.network, exported_spec(loaded.spec, options))
    model.network.eval()
    sealed = model.sealed().spec
    report(f"[1/3] torch to ONNX: {sealed.backbone} at {sizes_text(sealed)}, model {sealed.fingerprint}")
    proto = build_onnx(model, pixels=options.pixels)
    report(f"[2/3] ONNX Runtime against torch: {prove(proto, model, pictures, FP32_TOLERANCE)}")
    path = options.out / f"{source.stem}.onnx"
    write_onnx(proto, path)
    return path


def exported_spec(spec: ModelSpec, options: ExportOptions) -> ModelSpec:
    """The description of a checkpoint at the sizes that were asked for."""
    if options.free:
        sizes = (spec.size,) if spec.resize == "nearest" else spec.sizes
        return dataclasses.replace(spec, sizes=sizes, resize="longest")
    if options.sizes:
        resize = "nearest" if len(options.sizes) > 1 else "stretch"
        return dataclasses.replace(spec, sizes=options.sizes, resize=resize)
    return spec


def sizes_text(spec: ModelSpec) -> str:
    """The sizes in words: added together, alternatives, or the longest side of pictures that keep their aspect."""
    sizes = [f"{height}x{width}" for height, width in spec.sizes]
    if spec.resize == "longest":
        return f"free size, longest side {' + '.join(str(max(size)) for size in spec.sizes)}"
    return (" or " if spec.resize == "nearest" else " + ").join(sizes)
