"""What benchmarks/export.py times in torch, and the pooling of torchvision."""

from collections.abc import Callable
from pathlib import Path

import torch
from export_ways import PoolShape
from torch import Tensor, nn
from torchvision.ops import roi_pool

from deepir.distill.checkpoint import Model, load_model
from deepir.distill.layers import normalise, roi_max_pool
from deepir.image import prepare
from deepir.regions import Windows
from deepir.runtime.self_check import made_up_pictures

Run = Callable[[], object]


def model_eager(checkpoint: Path) -> Run:
    """`_model` operator by operator."""
    return _model(checkpoint, compiled=False)


def model_compiled(checkpoint: Path) -> Run:
    """`_model` through torch.compile."""
    return _model(checkpoint, compiled=True)


def pool_eager(shape: PoolShape, ours: bool) -> Run:
    """Our region pooling or torchvision's roi_pool, in torch eager."""
    cells, windows = torch.from_numpy(shape.cells), shape.windows.tolist()
    theirs = TorchvisionPool(shape.windows)

    def one() -> Tensor:
        with torch.inference_mode():
            pooled: Tensor = roi_max_pool(cells, windows) if ours else theirs(cells)
            return pooled

    return one


def torchvision_boxes(windows: Windows) -> Tensor:
    """Our windows as roi_pool wants them: picture, x0, y0, x1, y1, ends inclusive."""
    rows = [[0, left, top, right - 1, bottom - 1] for top, left, bottom, right in windows.tolist()]
    return torch.tensor(rows, dtype=torch.float32)


class TorchvisionPool(nn.Module):
    """roi_pool of torchvision with one output cell, (1, R, C)."""

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.register_buffer("boxes", torchvision_boxes(windows))

    def forward(self, map_nchw: Tensor) -> Tensor:
        boxes = self.get_buffer("boxes")
        pooled: Tensor = roi_pool(map_nchw, boxes, (1, 1), 1.0)
        return pooled.flatten(1).unsqueeze(0)


def _model(checkpoint: Path, *, compiled: bool) -> Run:
    """A model of one or several resolutions in torch, as `deepir.distill.describe` runs it, prepared pictures given."""
    model = load_model(checkpoint)
    model.network.eval()
    tensors = _tensors(model)

    def at_all_sizes(*images_nchw: Tensor) -> Tensor:
        network = model.network
        rows = [network.aggregate(network.region_vectors(image)) for image in images_nchw]
        return network.project(rows[0] if len(rows) == 1 else normalise(torch.stack(rows).sum(dim=0)))

    run = torch.compile(at_all_sizes) if compiled else at_all_sizes

    def one() -> Tensor:
        with torch.inference_mode():
            return run(*tensors)

    return one


def _tensors(model: Model) -> list[Tensor]:
    picture = made_up_pictures(model.spec, 1)[0]
    arrays = [prepare(picture, model.spec, size) for size in model.spec.resolutions]
    return [torch.from_numpy(array).contiguous(memory_format=torch.channels_last) for array in arrays]
