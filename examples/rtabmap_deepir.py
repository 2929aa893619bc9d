"""A global descriptor for RTAB-Map, which imports this file and calls `init` once and `extract` for each picture.

DEEPIR_MODEL=student.engine rtabmap --Mem/GlobalDescriptorStrategy 1 --Kp/TfIdfLikelihoodUsed false \
    --Mem/RehearsalSimilarity 1 --PyDescriptor/Dim 512 --PyDescriptor/Path examples/rtabmap_deepir.py
"""

import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

# an interpreter that lives in a C++ program may have none, and packages look there
if not hasattr(sys, "argv"):
    sys.argv = [""]

from deepir.errors import EngineError, OptionError
from deepir.runtime import Extractor
from deepir.runtime.pixels import as_image

MODEL_VARIABLE = "DEEPIR_MODEL"

_opened: list[Extractor] = []


def init(dim: int) -> None:
    """Load the model that the environment variable DEEPIR_MODEL names.

    Args:
        dim: What RTAB-Map was told with --PyDescriptor/Dim; it must be the model's.

    Raises:
        OptionError: The variable is missing, or the model gives descriptors of another size.
        DeepIRError: The model cannot be loaded.
    """
    path = os.environ.get(MODEL_VARIABLE)
    if not path:
        message = (
            f"set {MODEL_VARIABLE} to the model file before RTAB-Map starts, such as {MODEL_VARIABLE}=student.onnx"
        )
        raise OptionError(message)
    extractor = Extractor.open(path, batch_size=1)
    if extractor.spec.dim != dim:
        extractor.close()
        message = (
            f"{path} gives {extractor.spec.dim} values, RTAB-Map expects {dim}: --PyDescriptor/Dim {extractor.spec.dim}"
        )
        raise OptionError(message)
    while _opened:
        _opened.pop().close()
    _opened.append(extractor)


def extract(image: Any) -> NDArray[np.float32]:
    """The descriptor of a picture: float32 (1, dim) of length 1, or all zeros where the model finds no direction.

    Some models find none in a blank picture (a covered lens), others describe it like any other.

    Args:
        image: (H, W, 1) grey or (H, W, 3) BGR, of uint8, or of int8 as RTAB-Map declares the same bytes.

    Raises:
        EngineError: `init` was not called.
        ShapeError: Not such a picture.
    """
    if not _opened:
        message = "extract was called before init loaded the model: call init(dim) first"
        raise EngineError(message)
    # RTAB-Map hands its bytes over as signed ones (PyDescriptor.cpp: NPY_BYTE), though they are 0..255
    unsigned = image.view(np.uint8) if getattr(image, "dtype", None) == np.int8 else image
    return np.ascontiguousarray(_opened[0].describe([as_image(unsigned, "bgr")]), np.float32)
