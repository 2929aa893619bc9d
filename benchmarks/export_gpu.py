"""The pooling kernel on a GPU, for benchmarks/export.py: against torchvision's, and against the bytes it must move."""

import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from export_torch import torchvision_boxes
from export_ways import PoolShape
from torch import Tensor
from torchvision.ops import roi_pool

from deepir.pooling import roi_max_pool
from deepir.runtime.roi_kernel import PoolCall, kernel_of_current_gpu

LAUNCHES = 50


def time_kernels(shapes: Sequence[PoolShape], rounds: int) -> list[tuple[str, ...]]:
    """Rows: map, type, microseconds of ours, of torchvision, of a copy of as many bytes, ratio, GB/s, error."""
    return [
        _row(shape, half=half, batch=batch, rounds=rounds)
        for shape in shapes
        for half in (False, True)
        for batch in (1, 8)
    ]


def _row(shape: PoolShape, *, half: bool, batch: int, rounds: int) -> tuple[str, ...]:
    dtype = torch.float16 if half else torch.float32
    cells = torch.from_numpy(shape.cells).to("cuda", dtype).repeat(batch, 1, 1, 1).contiguous()
    windows = shape.windows.astype(np.int32)
    rois = torch.from_numpy(windows).cuda()
    pooled = torch.empty((batch, len(windows), shape.channels), device="cuda", dtype=dtype)
    kernel = kernel_of_current_gpu()
    kernel.prepare()
    call = PoolCall.packed(tuple(cells.shape), len(windows), half=half)
    pointers = (cells.data_ptr(), rois.data_ptr(), pooled.data_ptr())
    boxes = torch.cat([torchvision_boxes(shape.windows) + torch.eye(1, 5) * number for number in range(batch)])
    boxes = boxes.to("cuda", dtype)
    moved = cells.nbytes + pooled.nbytes + rois.nbytes
    # a copy reads and writes, so half of the bytes each way
    source = torch.empty(moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    ways: list[Callable[[], object]] = [
        lambda: kernel.launch(call, pointers, torch.cuda.current_stream().cuda_stream),
        lambda: roi_pool(cells, boxes, (1, 1), 1.0),
        lambda: target.copy_(source),
    ]
    turns: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, times in zip(ways, turns, strict=True):
            times.append(_microseconds(way))
    ours, theirs, copied = map(statistics.median, turns)
    error = np.abs(_array(pooled) - roi_max_pool(_array(cells), shape.windows)).max()
    return (
        f"{batch} x {shape.channels} x {shape.side} x {shape.side}, {len(windows)} windows",
        "FP16" if half else "FP32",
        *(f"{value:.1f}" for value in (ours, theirs, copied)),
        f"{theirs / ours:.1f}",
        f"{moved / ours / 1000:.0f}",
        f"{error:.0e}",
    )


def _microseconds(way: Callable[[], object]) -> float:
    """Of one launch among LAUNCHES, by the GPU's own clock."""
    way()
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    for _ in range(LAUNCHES):
        way()
    ended.record()
    torch.cuda.synchronize()
    elapsed: float = started.elapsed_time(ended)
    return elapsed * 1000 / LAUNCHES


def _array(tensor: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return tensor.float().cpu().numpy()
