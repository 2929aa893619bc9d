"""GStreamer pipelines, and the one for a camera on a Jetson's own connector (CSI)."""

from deepir.errors import MissingDependency
from deepir.runtime.camera_reader import Opener
from deepir.runtime.camera_state import Trouble
from deepir.runtime.capture import Capture, has_gstreamer, open_pipeline
from deepir.runtime.redact import without_password

_SINK = "appsink drop=true max-buffers=1 sync=false"
"""One frame waits, a newer one takes its place: without it a slow reader sees ever older pictures."""

_ARGUS = (
    "nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),width={width},height={height},framerate={rate}/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! " + _SINK
)
_WIDTH, _HEIGHT, _RATE = 1280, 720, 30
"""A mode that the usual sensors (IMX219, IMX477) have or are scaled to."""


def argus_pipeline(number: int) -> str:
    """From a CSI sensor of a Jetson to BGR frames for OpenCV."""
    return _ARGUS.format(number=number, width=_WIDTH, height=_HEIGHT, rate=_RATE)


def with_sink(pipeline: str) -> str:
    """The pipeline, ending in BGR frames for OpenCV if it does not end in an appsink of its own."""
    if "appsink" in pipeline:
        return pipeline
    return f"{pipeline.rstrip(' !')} ! videoconvert ! video/x-raw,format=BGR ! {_SINK}"


def check_gstreamer(word: str) -> None:
    """Refuse a source that this OpenCV cannot open, before anybody waits for it.

    Raises:
        MissingDependency: This OpenCV was built without GStreamer.
    """
    if has_gstreamer():
        return
    message = (
        f"{without_password(word)} needs an OpenCV with GStreamer, and this Python's has none, as all from pip: "
        "pip uninstall opencv-python-headless, then sudo apt install python3-opencv (on a Jetson, JetPack's own), "
        "and make the environment with python3 -m venv --system-site-packages"
    )
    raise MissingDependency(message)


def opener_of_csi(number: int) -> Opener:
    """Opens a sensor of a Jetson."""
    cure = (
        f"cannot open csi://{number}: check the flat cable and that the sensor is set up (sudo "
        "/opt/nvidia/jetson-io/jetson-io.py), then sudo systemctl restart nvargus-daemon"
    )
    return lambda: _open(argus_pipeline(number), cure)


def opener_of_pipeline(pipeline: str) -> Opener:
    """Opens a pipeline in the language of gst-launch-1.0."""
    cure = f"cannot open gst:{without_password(pipeline)}: try the same words with gst-launch-1.0, which says why"
    return lambda: _open(with_sink(pipeline), cure)


def _open(pipeline: str, cure: str) -> Capture | Trouble:
    capture = open_pipeline(pipeline)
    if capture.isOpened():
        return capture
    capture.release()
    return Trouble("not found", cure)
