"""ONNX's own check of a graph that we made or changed."""

from typing import Any

from deepir.errors import ModelError
from deepir.optional import need


def check(proto: Any) -> None:
    """Run ONNX's checker.

    Raises:
        ModelError: With the checker's first line.
    """
    checker = need("onnx.checker")
    try:
        checker.check_model(proto, full_check=True)
    except (checker.ValidationError, need("onnx.shape_inference").InferenceError) as error:
        message = f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}"
        raise ModelError(message) from error
