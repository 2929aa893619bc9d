"""A picture as a program has it, in numpy, torch, cupy or on a GPU, becomes the array that deepir works with."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepir.errors import OptionError, ShapeError
from deepir.image import Box, Image
from deepir.optional import need
from deepir.runtime.cuda import Cuda, open_cuda

Order = Literal["rgb", "bgr"]
"""How the first three channels follow each other; OpenCV's pictures are bgr."""

ORDERS: tuple[Order, ...] = get_args(Order)

_DLPACK_HOST = {1, 3, 11}
"""Kinds of DLPack device that the processor can read: its own memory, and page-locked memory of CUDA and ROCm."""

_LEGACY_STREAM = 1
"""CUDA's default stream, as the array interface calls it."""

_BYTES = ("|u1", "<u1", ">u1", "=u1")

_READ_AS_THEY_ARE = frozenset({"RGB", "RGBA", "RGBX", "L"})
"""Modes of Pillow whose array is a picture; that of another mode holds other colours, or numbers of a palette."""

_WIDE = ("I", "F")
"""What modes of Pillow begin with whose values are no bytes: they are refused, for Pillow would cut them at 255."""


def as_image(picture: Any, order: Order = "rgb") -> Image:
    """A picture as uint8 (H, W, 3) RGB in the memory of the host; the same array where it is that already.

    Args:
        picture: uint8 of shape (H, W, 3), (H, W, 4) whose last channel (alpha) is left out, or grey (H, W) or
            (H, W, 1), repeated for three channels. A numpy array, or what offers `__cuda_array_interface__`,
            `__array_interface__`, `__array__` or DLPack: torch and cupy tensors, PIL pictures, jetson-utils' cudaImage.
            One on a GPU is copied to the host, for deepir prepares pictures there; a PIL picture of a palette or of
            other colours (CMYK, YCbCr, LAB) is turned into RGB by Pillow first.
        order: Of the first three channels.

    Raises:
        ShapeError: Not such a picture; says what came and how to make one of it.
        OptionError: An order that there is not.
        MissingDependency: A picture on a GPU, and no package to copy it with.
    """
    if order not in ORDERS:
        message = f"the order of the channels must be rgb or bgr, got {order!r}"
        raise OptionError(message)
    pixels = picture if isinstance(picture, np.ndarray) else _on_host(_in_rgb(picture))
    _check(pixels.dtype.str, pixels.shape)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if channels == 3 and order == "rgb":
        return pixels
    cv2 = need("cv2")
    conversions = {
        ("rgb", 1): cv2.COLOR_GRAY2RGB,
        ("bgr", 1): cv2.COLOR_GRAY2RGB,
        ("bgr", 3): cv2.COLOR_BGR2RGB,
        ("rgb", 4): cv2.COLOR_RGBA2RGB,
        ("bgr", 4): cv2.COLOR_BGRA2RGB,
    }
    converted: Image = cv2.cvtColor(np.ascontiguousarray(pixels), conversions[order, channels])
    return converted


def as_boxes(boxes: Any, image: Image) -> list[Box]:
    """Boxes as a detector gives them, cut to the picture.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels, an array or a list; or an object with such an `xyxy`, as supervision's
            Detections are.
        image: (H, W, 3) They lie in it.

    Raises:
        ShapeError: Not such boxes, or nothing of the picture lies in one; names it.
    """
    corners_n4 = np.asarray(getattr(boxes, "xyxy", boxes), dtype=np.float64)
    if corners_n4.size == 0:
        return []
    if corners_n4.ndim != 2 or corners_n4.shape[1] != 4 or not np.isfinite(corners_n4).all():
        message = f"expected boxes (N, 4) of finite x1, y1, x2, y2 in pixels, got an array of shape {corners_n4.shape}"
        raise ShapeError(message)
    height, width = image.shape[:2]
    cut_n4 = corners_n4.clip(0, [width, height, width, height])
    for number, (left, top, right, bottom) in enumerate(cut_n4):
        if left >= right or top >= bottom:
            message = (
                f"nothing of the picture, {width} x {height} pixels, lies in box {number}, "
                f"{corners_n4[number].tolist()} (x1, y1, x2, y2): correct the box or leave it out"
            )
            raise ShapeError(message)
    return [(float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in cut_n4]


def _in_rgb(picture: Any) -> Any:
    """A picture of Pillow whose channels are not those of RGB, turned into it; anything else as it came."""
    mode, convert = getattr(picture, "mode", None), getattr(picture, "convert", None)
    if not isinstance(mode, str) or convert is None or mode in _READ_AS_THEY_ARE or mode.startswith(_WIDE):
        return picture
    try:
        # Pillow warns where the transparency of a palette is left out, and alpha is left out here anyway
        return convert("RGBA" if mode == "P" else "RGB")
    except ValueError as error:
        message = f"Pillow cannot turn this picture of mode {mode} into RGB ({error}): give one of mode RGB or L"
        raise ShapeError(message) from error


def _on_host(picture: Any) -> NDArray[Any]:
    interface = getattr(picture, "__cuda_array_interface__", None)
    if interface is not None:
        return _downloaded(_DeviceArray.read(interface))
    device = getattr(picture, "__dlpack_device__", None)
    if device is not None and int(device()[0]) not in _DLPACK_HOST:
        message = (
            f"this {type(picture).__name__} lies on a device that deepir cannot read (DLPack device {device()[0]}) and "
            "has no __cuda_array_interface__: give a copy on the host, such as picture.cpu()"
        )
        raise ShapeError(message)
    try:
        if hasattr(picture, "__array_interface__") or hasattr(picture, "__array__"):
            return np.asarray(picture)
        if device is not None:
            return np.from_dlpack(picture)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        message = f"this {type(picture).__name__} cannot be read as an array ({error}): give a uint8 array (H, W, 3)"
        raise ShapeError(message) from error
    message = f"expected a picture, a uint8 array of shape (H, W, 3), got {type(picture).__name__}"
    raise ShapeError(message)


def _check(kind: str, shape: Sequence[int]) -> None:
    """Refuse what is not uint8 (H, W) or (H, W, 1, 3 or 4) with pixels, and say how to make it so."""
    size = tuple(int(side) for side in shape)
    if kind in _BYTES and 0 not in size and (len(size) == 2 or (len(size) == 3 and size[2] in (1, 3, 4))):
        return
    came = f"{np.dtype(kind)} of shape {size}"
    cure = ""
    if kind not in _BYTES:
        cure = ": scale it to 0..255 and turn it into uint8"
    elif len(size) == 3 and size[0] in (3, 4):
        cure = ": put the channels last, as with picture.transpose(1, 2, 0), or permute(1, 2, 0) in torch"
    elif len(size) == 4:
        cure = ": give one picture of the batch at a time"
    message = f"expected an RGB picture, uint8 of shape (H, W, 3), (H, W, 4) or (H, W), got {came}{cure}"
    raise ShapeError(message)


@dataclass(frozen=True, slots=True)
class _DeviceArray:
    """A picture on a GPU.

    Attributes:
        pointer: Of its first pixel.
        shape: (H, W, C) or (H, W)
        strides: In bytes; rows may be padded, and a crop has those of the whole.
        stream: It is written by; None where nothing needs to be waited for.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    stream: int | None

    @classmethod
    def read(cls, interface: dict[str, Any]) -> "_DeviceArray":
        """From `__cuda_array_interface__`, version 2 or 3.

        Raises:
            ShapeError: Not a picture.
        """
        _check(interface["typestr"], interface["shape"])
        shape = tuple(int(side) for side in interface["shape"])
        packed = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        strides = tuple(int(stride) for stride in interface.get("strides") or packed)
        # version 2 knows no stream, so that it may be the default one; 0 means the same, though the interface bans it
        stream = interface.get("stream", _LEGACY_STREAM)
        waited = None if stream is None else int(stream) or _LEGACY_STREAM
        return cls(int(interface["data"][0]), shape, strides, waited)

    @property
    def extent(self) -> tuple[int, int]:
        """Bytes before and behind the first pixel that belong to it; the second ends exclusive."""
        reaches = [(side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True)]
        return -sum(reach for reach in reaches if reach < 0), sum(reach for reach in reaches if reach > 0) + 1


@functools.cache
def _cuda() -> Cuda:
    return open_cuda()


def _downloaded(device: _DeviceArray) -> NDArray[Any]:
    """A copy on the host, laid out as it is on the GPU: one transfer, whatever its strides."""
    cuda = _cuda()
    before, behind = device.extent
    bytes_1d = np.empty(before + behind, np.uint8)
    with cuda.current():
        if device.stream is not None:
            cuda.synchronise(device.stream)
        stream = cuda.stream()
        try:
            cuda.download(bytes_1d, device.pointer - before, stream)
            cuda.synchronise(stream)
        finally:
            cuda.end_stream(stream)
    return np.lib.stride_tricks.as_strided(bytes_1d[before:], device.shape, device.strides)
