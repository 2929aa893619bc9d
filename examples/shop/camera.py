"""Camera: light, blur, noise and compression, as a phone adds them to a scene."""

import cv2
import numpy as np
import numpy.typing as npt
from colours import Image, Rng


def take_photograph(rng: Rng, scene: Image, *, detail: float) -> Image:
    """Return the scene as a phone sees it; the blur keeps objects of `detail` pixels recognisable."""
    height, width = scene.shape[:2]
    lit = _light(rng, _blur(rng, scene, detail))
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0.5, 8))
    speckle = rng.standard_normal((height // 4, width // 4, 3), dtype=np.float32) * np.float32(rng.uniform(0, 4))
    return saturated(lit + grain + np.asarray(cv2.resize(speckle, (width, height)), dtype=np.float32))


def encode_jpeg(image: Image, quality: int) -> bytes:
    written, buffer = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        message = f"OpenCV could not encode an image of shape {image.shape} as JPEG"
        raise ValueError(message)
    return buffer.tobytes()


def saturated(light: npt.NDArray[np.float32]) -> Image:
    """Return the light as pixels; what is too dark or too bright becomes black or white."""
    return np.asarray(np.clip(light, 0, 255, out=light), dtype=np.uint8)


def _light(rng: Rng, scene: Image) -> npt.NDArray[np.float32]:
    height, width = scene.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    turn, slope, contrast = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35), rng.uniform(0.8, 1.1)
    gradient = 1 + slope * (np.cos(turn) * across + np.sin(turn) * down)
    cast = rng.uniform(0.6, 1.25) * (1 + rng.normal(0, 0.06, 3)) * contrast
    lit = scene * cast.astype(np.float32)
    lit *= gradient.astype(np.float32)[..., None]
    spot = _specular_spot(rng, across, down) if rng.uniform() < 0.35 else 0.0
    offset = np.asarray(spot + 128 * (1 - contrast), dtype=np.float32)
    return np.asarray(lit + offset[..., None], dtype=np.float32)


def _specular_spot(rng: Rng, across: npt.NDArray[np.float32], down: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    middle = rng.uniform(-0.7, 0.7, 2)
    spread = rng.uniform(0.06, 0.3, 2)
    row, column = np.exp(-(((across - middle[0]) / spread[0]) ** 2)), np.exp(-(((down - middle[1]) / spread[1]) ** 2))
    return np.asarray(rng.uniform(50, 170) * row * column, dtype=np.float32)


def _blur(rng: Rng, scene: Image, detail: float) -> Image:
    kind = rng.choice(["sharp", "defocus", "motion"], p=[0.35, 0.35, 0.3])
    if kind == "defocus":
        sigma = rng.uniform(0.3, min(1.9, 0.3 + 0.008 * detail))
        return np.asarray(cv2.GaussianBlur(scene, (0, 0), sigma), dtype=np.uint8)
    if kind == "motion":
        return _motion_blur(scene, rng.uniform(2, min(9.0, 2 + 0.028 * detail)), rng.uniform(0, np.pi))
    return scene


def _motion_blur(scene: Image, length: float, turn: float) -> Image:
    """Return the scene smeared over `length` pixels in the direction `turn` (radians)."""
    reach = max(1, round(length / 2))
    kernel = np.zeros((2 * reach + 1,) * 2, dtype=np.float32)
    along = np.array([np.cos(turn), np.sin(turn)]) * length / 2
    first, last = np.round(reach - along).astype(int).tolist(), np.round(reach + along).astype(int).tolist()
    cv2.line(kernel, first, last, 1.0, 1, cv2.LINE_AA)
    return np.asarray(cv2.filter2D(scene, -1, kernel / kernel.sum()), dtype=np.uint8)
