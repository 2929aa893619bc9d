"""What an engine's file is called: the model, the TensorRT and the GPU it was built for."""

from pathlib import Path

from deepir.runtime.sidecar import GpuInfo
from deepir.runtime.tensorrt_library import Flavour


def engine_name(onnx: Path, version: str, gpu: GpuInfo | None, flavour: Flavour) -> str:
    """shop.int8.onnx gives shop.int8.trt10.3-sm87.engine, and with TensorRT-RTX shop.int8.rtx1.7.engine.

    Args:
        onnx: The file it is built from.
        version: TensorRT's, such as "10.3.0".
        gpu: The GPU of the build; an RTX plan is made for several, so it is not named after one.
        flavour: Which TensorRT.
    """
    release = ".".join(version.split(".")[:2])
    if flavour is Flavour.RTX:
        return f"{onnx.stem}.rtx{release}.engine"
    board = "" if gpu is None else f"-sm{gpu.compute_capability.replace('.', '')}"
    return f"{onnx.stem}.trt{release}{board}.engine"
