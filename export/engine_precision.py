"""In which precision the convolutions of a built engine compute: read back, not believed."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from deepir.runtime.sidecar import PrecisionCount

_KERNELS = "Layers:"
"""How the message of TensorRT-RTX begins that lists every kernel, when its log is verbose (tensorrt.md 3.4)."""

_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")

# longest words first: "i8i8_i8i32_f32" is INT8, "f16f16_f32" is FP16
_WORDS = (("int8", r"int8|i8i8|imma"), ("fp16", r"half|fp16|f16|h16|hmma"), ("fp32", r"float|fp32|tf32|f32|sgemm"))


def count_in_layers(information: str) -> PrecisionCount:
    """Count the convolutions in the JSON of TensorRT's engine inspector.

    TensorRT 10 and 11 name the inputs of the engine differently ("Bindings", "I/O Tensors"); the layers are the same.
    Formats of tensors read "N/A due to dynamic shapes" where the batch is free, so the type of the weights counts
    first, and the kernel's name last.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return PrecisionCount(0, 0, 0, 0)
    # without detail a layer is only its name
    described = [layer for layer in layers if isinstance(layer, dict)]
    return _counted(_precision(_texts_of(layer)) for layer in described if _is_convolution(layer))


def count_in_log(lines: Iterable[tuple[str, str]], names: Iterable[str] = ()) -> PrecisionCount:
    """Count the convolutions in the kernel list of TensorRT-RTX; the last list of several.

    Args:
        lines: Severity and message.
        names: The file's convolutions; one that is compiled together with what follows it is known by its name only.
    """
    known, precisions = set(names), []
    for kernel in _kernel_list(lines):
        if "LayerType: correlation" in kernel:
            precisions.append(_precision(_TYPE.findall(kernel)[:1]))
        elif "LayerType: runtime_fusion" in kernel and known & set(_NODE.findall(kernel)):
            # its inputs may be anything, but the weights come first among the constants
            precisions.append(_precision(_TYPE.findall(kernel.partition("Constants: ")[2])[:1]))
    return _counted(precisions)


def dropped(lines: Iterable[tuple[str, str]], names: Iterable[str]) -> list[str]:
    """Those of the ONNX nodes that no kernel of TensorRT-RTX's list says it computes."""
    computed = {name for kernel in _kernel_list(lines) for name in _NODE.findall(kernel)}
    return [name for name in names if name not in computed]


def worst(counts: Iterable[PrecisionCount]) -> PrecisionCount:
    """The one with the smallest share of INT8."""
    return min(counts, key=lambda count: count.int8 / max(1, count.convolutions))


def _kernel_list(lines: Iterable[tuple[str, str]]) -> list[str]:
    lists = [message for _, message in lines if message.startswith(_KERNELS)]
    return lists[-1].splitlines()[1:] if lists else []


def _is_convolution(layer: dict[str, Any]) -> bool:
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
    return "conv" in kind or "correlation" in kind


def _texts_of(layer: dict[str, Any]) -> Iterator[str]:
    """What may tell the precision, the surest first."""
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        yield str(weights.get("Type", ""))
    for tensor in [*layer.get("Inputs", []), *layer.get("Constants", [])]:
        if isinstance(tensor, dict):
            yield from (str(value) for name, value in tensor.items() if "datatype" in name.lower() or name == "Format")
    yield str(layer.get("TacticName", ""))


def _precision(texts: Iterable[str]) -> str:
    for text in texts:
        for precision, words in _WORDS:
            if re.search(words, text.lower()):
                return precision
    return "unknown"


def _counted(precisions: Iterable[str]) -> PrecisionCount:
    found = Counter(precisions)
    return PrecisionCount(sum(found.values()), found["int8"], found["fp16"], found["fp32"])
