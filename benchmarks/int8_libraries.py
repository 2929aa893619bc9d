"""A library's quantiser in a process of its own, in an environment of its own where it must be.

    python benchmarks/int8_libraries.py LIBRARY MODEL.onnx IMAGES.npy OUT.onnx

LIBRARY is `onnxruntime`, `modelopt-max` or `modelopt-entropy`, IMAGES prepared pictures (N, 3, H, W), and OUT the model
with the library's INT8 trunk under its own FP32 head.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deepir.calib.modelopt import cut_trunk, graft_trunk, quantise_modelopt
from deepir.calib.onnx_file import read_card, read_onnx, write_onnx
from deepir.card import INPUT_NAME
from deepir.pooling import FloatArray


def quantise_onnxruntime(proto: Any, images_nchw: FloatArray) -> Any:
    """`quantize_static` with the options whose result TensorRT parses, on the graph that its own preparation gives."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        trunk, ready, int8 = (Path(folder) / f"{name}.onnx" for name in ("trunk", "ready", "int8"))
        write_onnx(cut_trunk(proto), trunk)
        quant_pre_process(trunk, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            int8,
            _Reader(images_nchw),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return graft_trunk(proto, read_onnx(int8))


class _Reader:
    """Gives ONNX Runtime one picture after the other."""

    def __init__(self, images_nchw: FloatArray) -> None:
        self._feeds = iter([{INPUT_NAME: image[None]} for image in images_nchw])

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self._feeds, None)


def main(library: str, model: str, images: str, out: str) -> None:
    proto, images_nchw = read_onnx(Path(model)), np.load(images, mmap_mode="r")
    name, _, method = library.partition("-")
    if name == "modelopt":
        quantised = quantise_modelopt(proto, read_card(proto), [{INPUT_NAME: images_nchw}], method=method)
    else:
        quantised = quantise_onnxruntime(proto, images_nchw)
    write_onnx(quantised, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
