"""deepir: Deep Image Retrieval on edge devices. Words and arithmetic that every room shares."""

from deepir.errors import DeepIRError
from deepir.spec import ModelSpec, Numerics

__all__ = ["DeepIRError", "ModelSpec", "Numerics", "__version__"]
__version__ = "0.1.0"
