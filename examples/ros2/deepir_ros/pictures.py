"""From and to ROS's pictures: sensor_msgs/Image with padded rows, and CompressedImage."""

from array import array
from typing import Any

import numpy as np

from deepir.errors import ShapeError
from deepir.image import Image, decode_image
from deepir.runtime.pixels import Order, as_image

ENCODINGS: dict[str, tuple[int, Order]] = {
    "rgb8": (3, "rgb"),
    "bgr8": (3, "bgr"),
    "rgba8": (4, "rgb"),
    "bgra8": (4, "bgr"),
    "mono8": (1, "rgb"),
}
"""Channels of each encoding and their order."""


def read_message(message: Any) -> Image:
    """The picture of a sensor_msgs/Image or CompressedImage, RGB (H, W, 3).

    Raises:
        ShapeError: An encoding that is not in ENCODINGS, or fewer bytes than rows and step say.
        InputError: Compressed bytes that are no picture.
    """
    if not hasattr(message, "encoding"):
        return decode_image(bytes(message.data), f"the compressed picture ({message.format})")
    if message.encoding not in ENCODINGS:
        text = (
            f"pictures of encoding {message.encoding!r} cannot be read: publish one of {', '.join(ENCODINGS)}, "
            "as image_proc and the camera's driver can"
        )
        raise ShapeError(text)
    channels, order = ENCODINGS[message.encoding]
    width, height, step = int(message.width), int(message.height), int(message.step)
    bytes_1d = np.frombuffer(message.data, np.uint8)
    if min(width, height) < 1 or step < width * channels or len(bytes_1d) < height * step:
        text = (
            f"a picture of {width} x {height} {message.encoding} with a step of {step} bytes cannot have "
            f"{len(bytes_1d)} bytes: look at what publishes it"
        )
        raise ShapeError(text)
    rows = bytes_1d[: height * step].reshape(height, step)[:, : width * channels]
    return as_image(rows.reshape(height, width, channels), order)


def fill_message(message: Any, image: Image) -> None:
    """Put a picture into a sensor_msgs/Image."""
    message.height, message.width = image.shape[:2]
    message.encoding = "rgb8"
    message.is_bigendian = 0
    message.step = 3 * image.shape[1]
    message.data = array("B", image.tobytes())
