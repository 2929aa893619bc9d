"""Pictures of the report: small JPEG copies, written into the page itself."""

import base64
from pathlib import Path

import cv2
import numpy as np
from colours import Image
from report_html import Html, tag

SIDE = 200  # of a thumbnail, in pixels
QUALITY = 78


def read_picture(path: Path) -> Image:
    """Return the picture in RGB."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        message = f"cannot read {path}: was the shop rendered again since the models were evaluated?"
        raise FileNotFoundError(message)
    return np.asarray(picture[..., ::-1], dtype=np.uint8)


def thumbnail(picture: Image, description: str, *, side: int = SIDE) -> Html:
    """Return an image tag that holds the picture, its longer side shrunk to `side`."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"
    return tag("img", src=source, alt=description, width=size[0], height=size[1], loading="lazy")


def find_picture(run: Path, name: str) -> Path:
    """Return where a picture of the shop lies, also when the run was moved since its path was written down."""
    path = Path(name)
    return path if path.exists() else run / "shop" / Path(*path.parts[-3:])


def label_of(name: str) -> str:
    """Return the product that a picture of the shop shows: its folder."""
    return Path(name).parent.name
