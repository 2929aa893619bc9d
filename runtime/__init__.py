"""What a robot imports: describe images, search the index, name what a camera sees; no torch, no onnx."""

from deepir.runtime.backend import BackendOptions
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import CameraState, Patience
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.items import Item
from deepir.runtime.label_search import Hit
from deepir.runtime.recogniser import Described, Judgement, Recogniser, Recognition
from deepir.runtime.source import Frame, Source, open_source

__all__ = [
    "BackendOptions",
    "Camera",
    "CameraState",
    "Described",
    "Extractor",
    "Frame",
    "Hit",
    "Index",
    "Item",
    "Judgement",
    "Patience",
    "Recogniser",
    "Recognition",
    "Source",
    "open_source",
]
