"""A global descriptor for hloc, in the place of its `dir` or `netvlad`: copy this file to hloc/extractors/deepir.py.

conf = {"output": "global-feats-deepir", "model": {"name": "deepir", "model": "student.onnx"},
        "preprocessing": {"resize_max": 1024}}
features = hloc.extract_features.main(conf, images, outputs)
"""

from typing import Any, ClassVar

import torch

from deepir.errors import OptionError, ShapeError
from deepir.runtime import BackendOptions, Extractor

try:
    from hloc.utils.base_model import BaseModel
except ImportError:  # usable without hloc, called the same way

    class BaseModel(torch.nn.Module):  # type: ignore[no-redef]
        """What hloc's class of this name does with a configuration and with its input."""

        default_conf: ClassVar[dict[str, Any]] = {}

        def __init__(self, conf: dict[str, Any]) -> None:
            super().__init__()
            self.conf = {**self.default_conf, **conf}
            self._init(self.conf)

        def forward(self, data: dict[str, Any]) -> dict[str, Any]:
            return self._forward(data)


class DeepIR(BaseModel):
    """Describes whole pictures with a model of deepir, on whatever runs that model best here.

    Its configuration: `model` is the file; `device` and `backend` are those of deepir-run.
    """

    default_conf: ClassVar[dict[str, Any]] = {"model": None, "device": "auto", "backend": "auto"}
    required_inputs: ClassVar[list[str]] = ["image"]

    def _init(self, conf: dict[str, Any]) -> None:
        if not conf["model"]:
            message = "say which model describes the pictures: {'name': 'deepir', 'model': 'student.onnx'}"
            raise OptionError(message)
        options = BackendOptions(device=conf["device"], backend=conf["backend"])
        self.extractor = Extractor.open(conf["model"], options)

    def _forward(self, data: dict[str, Any]) -> dict[str, Any]:
        """From `image`, float (N, 3, H, W) RGB 0..1, to `global_descriptor`, (N, D) of length 1, on its device."""
        image_nchw = data["image"]
        if image_nchw.ndim != 4 or image_nchw.shape[1] != 3:
            message = f"expected RGB pictures (N, 3, H, W), got {tuple(image_nchw.shape)}: leave out 'grayscale'"
            raise ShapeError(message)
        # hloc divided whole numbers by 255, unless it resized them, so that rounding gives back what was in the file
        bytes_nhwc = (255 * image_nchw).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        descriptors_nd = self.extractor.describe(list(bytes_nhwc.contiguous().cpu().numpy()))
        return {"global_descriptor": torch.from_numpy(descriptors_nd).to(image_nchw.device)}
