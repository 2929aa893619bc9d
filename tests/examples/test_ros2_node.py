"""The ROS 2 node's logic, driven by FakeNode as rclpy would drive it; pictures, answers, services, diagnostics."""

import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from deepir.runtime import Index, Recognition

PACKAGE = Path(__file__).parents[2] / "examples" / "ros2"
PATIENCE = 120.0
ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


class Message(SimpleNamespace):
    """Stands for a message of ROS: its fields are those that the constructor of its kind gives."""


def kind(**fields: Any) -> Callable[..., Message]:
    """A kind of messages, which refuse fields that they have not."""

    class Kind(Message):
        def __init__(self, **given: Any) -> None:
            super().__init__(**{**deepcopy(fields), **given})

        def __setattr__(self, name: str, value: Any) -> None:
            assert name in fields, f"no field {name}"
            super().__setattr__(name, value)

    return Kind


def header(sec: int = 0, nanosec: int = 0, frame_id: str = "") -> Message:
    return Message(stamp=Message(sec=sec, nanosec=nanosec), frame_id=frame_id)


class FakeParameter(SimpleNamespace):
    """Stands for rclpy.parameter.Parameter."""

    Type = SimpleNamespace(STRING_ARRAY="string array")

    def __init__(self, name: str, type_: str, value: Any) -> None:
        super().__init__(name=name, type_=type_, value=value)


class DiagnosticStatus(kind(level=b"\x00", name="", message="", hardware_id="", values=[])):  # type: ignore[misc]
    """Stands for diagnostic_msgs/DiagnosticStatus."""

    OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"


PICTURE = {"header": header(), "height": 0, "width": 0, "encoding": "", "is_bigendian": 0, "step": 0, "data": b""}

ROS = SimpleNamespace(
    Classification=kind(header=header(), results=[]),
    CompressedImage=kind(header=header(), format="", data=b""),
    DiagnosticArray=kind(header=header(), status=[]),
    DiagnosticStatus=DiagnosticStatus,
    Float32MultiArray=kind(layout=Message(dim=[], data_offset=0), data=[]),
    Image=kind(**PICTURE),
    KeyValue=kind(key="", value=""),
    MultiArrayDimension=kind(label="", size=0, stride=0),
    ObjectHypothesis=kind(class_id="", score=0.0),
    Parameter=FakeParameter,
    Trigger="std_srvs/Trigger",
    VisionInfo=kind(header=header(), method="", database_location="", database_version=0),
    sensor_data_qos="sensor data, depth 1",
    reliable_qos="reliable, depth 1",
    latched_qos="transient local, depth 1",
)


class FakePublisher:
    """Stands for rclpy's publisher; a test can wait for messages."""

    def __init__(self, qos: object) -> None:
        self.qos = qos
        self.messages: list[Any] = []
        self.subscribers = 0
        self._published = threading.Condition()

    def publish(self, message: Any) -> None:
        with self._published:
            self.messages.append(message)
            self._published.notify_all()

    def get_subscription_count(self) -> int:
        return self.subscribers

    def wait_for(self, count: int) -> list[Any]:
        with self._published:
            assert self._published.wait_for(lambda: len(self.messages) >= count, PATIENCE)
            return self.messages


class FakeLogger:
    """Stands for rclpy's logger; a test can wait for lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, float]] = []
        self.warned = threading.Semaphore(0)

    def info(self, text: str) -> None:
        self.lines.append(("info", text, 0))

    def error(self, text: str) -> None:
        self.lines.append(("error", text, 0))

    def warning(self, text: str, *, throttle_duration_sec: float = 0) -> None:
        self.lines.append(("warning", text, throttle_duration_sec))
        self.warned.release()


class FakeNode:
    """Stands for rclpy's LifecycleNode: it holds what the logic makes, by its name."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.publishers: dict[str, FakePublisher] = {}
        self.subscriptions: dict[str, tuple[Any, Callable[[Any], None], object]] = {}
        self.services: dict[str, Callable[[Any, Any], Any]] = {}
        self.timers: list[Callable[[], None]] = []
        self.logger = FakeLogger()

    def declare_parameter(self, name: str, default: Any) -> None:
        self.parameters.setdefault(name, default)

    def get_parameter(self, name: str) -> Message:
        return Message(value=self.parameters[name])

    def set_parameters(self, parameters: list[FakeParameter]) -> None:
        assert all(parameter.type_ == "string array" for parameter in parameters)
        self.parameters.update({parameter.name: parameter.value for parameter in parameters})

    def create_publisher(self, _kind: object, topic: str, qos: object) -> FakePublisher:
        return self.publishers.setdefault(topic, FakePublisher(qos))

    def destroy_publisher(self, publisher: FakePublisher) -> None:
        self.publishers = {topic: one for topic, one in self.publishers.items() if one is not publisher}

    def create_subscription(self, kind_: object, topic: str, callback: Callable[[Any], None], qos: object) -> str:
        self.subscriptions[topic] = (kind_, callback, qos)
        return topic

    def destroy_subscription(self, topic: str) -> None:
        del self.subscriptions[topic]

    def create_service(self, service: object, name: str, callback: Callable[[Any, Any], Any]) -> str:
        assert service == ROS.Trigger
        self.services[name] = callback
        return name

    def destroy_service(self, name: str) -> None:
        del self.services[name]

    def create_timer(self, _seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        self.timers.append(callback)
        return callback

    def destroy_timer(self, callback: Callable[[], None]) -> None:
        self.timers.remove(callback)

    def get_logger(self) -> FakeLogger:
        return self.logger

    def get_clock(self) -> Message:
        return Message(now=lambda: Message(to_msg=lambda: Message(sec=999, nanosec=0)))

    def get_fully_qualified_name(self) -> str:
        return "/deepir"

    def call(self, service: str) -> Any:
        return self.services[service](None, Message(success=None, message=""))

    def diagnosis(self) -> Any:
        self.timers[0]()
        return self.publishers["/diagnostics"].messages[-1].status[0]


def as_message(image: np.ndarray, encoding: str = "rgb8", *, padding: int = 0, sec: int = 12) -> Any:
    """A sensor_msgs/Image of an RGB picture, its rows padded by so many bytes."""
    if encoding == "mono8":
        pixels = image[:, :, :1]
    else:
        pixels = image[:, :, ::-1] if encoding.startswith("bgr") else image
        if "a" in encoding:
            pixels = np.dstack([pixels, np.full(image.shape[:2], 3, np.uint8)])
    rows = pixels.reshape(image.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    height, width = image.shape[:2]
    data = array("B", padded.tobytes())
    return ROS.Image(
        header=header(sec, 34, "camera"), height=height, width=width, encoding=encoding, step=padded.shape[1], data=data
    )


Colour = Callable[..., np.ndarray]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package's modules, importable as where ROS has installed it."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    from deepir_ros import logic, newest, pictures

    yield SimpleNamespace(Logic=logic.Logic, Newest=newest.Newest, read_message=pictures.read_message)
    for name in [name for name in sys.modules if name.startswith("deepir_ros")]:
        del sys.modules[name]


@pytest.fixture
def node(shop_index: Path, package: Any) -> Iterator[FakeNode]:
    """A node whose parameters name the index; `node.logic` is not configured yet."""
    node: Any = FakeNode()
    node.parameters.update(index=str(shop_index), backend="onnxruntime", device="cpu")
    node.logic = package.Logic(node, ROS)
    yield node
    node.logic.cleanup()


@pytest.fixture
def active(node: Any) -> FakeNode:
    assert node.logic.configure()
    assert node.logic.activate()
    return node  # type: ignore[no-any-return]


def show(node: FakeNode, message: Any) -> Any:
    """The classification that comes of a picture."""
    publisher = node.publishers["~/classification"]
    before = len(publisher.messages)
    topic = "image" if hasattr(message, "encoding") else "image/compressed"
    node.subscriptions[topic][1](message)
    return publisher.wait_for(before + 1)[-1]


def names(answer: Any) -> list[str]:
    return [one.class_id for one in answer.results]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("padding", [0, 5])
def test_each_encoding_is_read_by_its_step(package: Any, encoding: str, padding: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    expected = image if encoding != "mono8" else np.repeat(image[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(package.read_message(as_message(image, encoding, padding=padding)), expected)


def test_a_match_is_published_under_the_header_of_its_picture(active: FakeNode, colour: Colour) -> None:
    message = as_message(colour("red", np.random.default_rng(3)), "bgr8", padding=8)
    answer = show(active, message)
    assert answer.header is message.header
    assert names(answer)[0] == "red"
    assert sorted(names(answer)) == ["blue", "green", "red", "yellow"]
    scores = [one.score for one in answer.results]
    assert scores == sorted(scores, reverse=True)


def test_a_compressed_picture_is_recognised_too(active: FakeNode, colour: Colour) -> None:
    bgr = np.ascontiguousarray(colour("green", np.random.default_rng(3))[:, :, ::-1])
    data = array("B", cv2.imencode(".png", bgr)[1].tobytes())
    assert names(show(active, ROS.CompressedImage(header=header(5), format="png", data=data)))[0] == "green"


def test_an_unknown_thing_has_no_hypothesis(node: Any, colour: Colour) -> None:
    node.parameters["threshold"] = "1.0"
    assert node.logic.configure()
    assert node.logic.activate()
    assert show(node, as_message(colour("red", np.random.default_rng(3)))).results == []


def test_with_a_vote_enough_pictures_must_agree(node: Any, colour: Colour) -> None:
    node.parameters["vote"] = "2/3"
    assert node.logic.configure()
    assert node.logic.activate()
    rng = np.random.default_rng(3)
    seen = [names(show(node, as_message(colour(name, rng))))[:1] for name in ("red", "red", "blue", "blue")]
    assert seen == [[], ["red"], ["red"], ["blue"]]


def test_the_descriptor_has_length_one_and_tells_its_size(active: FakeNode, colour: Colour) -> None:
    show(active, as_message(colour("red", np.random.default_rng(3))))
    (message,) = active.publishers["~/descriptor"].wait_for(1)
    (axis,) = message.layout.dim
    assert (axis.label, axis.size, axis.stride, len(message.data)) == ("descriptor", 8, 8, 8)
    assert np.linalg.norm(message.data) == pytest.approx(1, abs=1e-5)


def test_the_overlay_is_drawn_only_for_subscribers(active: Any, colour: Colour) -> None:
    publisher = active.publishers["~/overlay"]
    image = colour("red", np.random.default_rng(3))
    show(active, as_message(image))
    show(active, as_message(image))
    # the overlay of the first of them would be there by now
    assert publisher.messages == []
    publisher.subscribers = 1
    message = as_message(image)
    show(active, message)
    active.logic.deactivate()
    (overlay,) = publisher.messages
    assert overlay.header is message.header
    assert (overlay.encoding, overlay.height, overlay.width, overlay.step) == ("rgb8", 48, 64, 192)
    assert len(overlay.data) == 48 * 192


def test_an_ambiguous_answer_has_no_hypothesis_though_its_labels_share_a_branch(package: Any) -> None:
    top = (("brand/500g", 0.8), ("brand/1kg", 0.79))
    ambiguous = Recognition("ambiguous", "brand", 0.8, 0.01, top, {}, ("brand/500g", "brand/1kg"))
    assert sys.modules["deepir_ros.outputs"]._hypotheses(ambiguous, None) == []


def test_the_labels_are_announced_and_latched(active: FakeNode) -> None:
    publisher = active.publishers["~/vision_info"]
    (info,) = publisher.messages
    assert publisher.qos == ROS.latched_qos
    assert (info.database_location, info.database_version) == ("/deepir/class_labels", 1)
    assert active.parameters["class_labels"] == ["blue", "green", "red", "yellow"]


@pytest.mark.parametrize(("word", "qos"), [("sensor_data", "sensor data, depth 1"), ("reliable", "reliable, depth 1")])
def test_the_subscriptions_have_the_quality_that_was_asked_for(node: Any, word: str, qos: str) -> None:
    node.parameters["input_qos"] = word
    assert node.logic.configure()
    assert node.subscriptions == {}
    assert node.logic.activate()
    assert {topic: asked for topic, (_, _, asked) in node.subscriptions.items()} == {
        "image": qos,
        "image/compressed": qos,
    }


def test_deactivating_drops_pictures_and_activating_goes_on(active: Any, colour: Colour) -> None:
    message = as_message(colour("red", np.random.default_rng(3)))
    receive = active.subscriptions["image"][1]
    show(active, message)
    active.logic.deactivate()
    assert active.subscriptions == {}
    receive(message)
    active.logic.activate()
    assert names(show(active, as_message(colour("blue", np.random.default_rng(3)))))[0] == "blue"
    assert len(active.publishers["~/classification"].messages) == 2


def test_cleaning_up_frees_all_and_configuring_loads_again(active: Any) -> None:
    recogniser = active.logic.recogniser
    active.logic.cleanup()
    assert (active.publishers, active.subscriptions, active.services, active.timers) == ({}, {}, {}, [])
    assert active.logic.recogniser is None
    with pytest.raises(Exception, match="was closed"):
        recogniser.warmup()
    active.logic.cleanup()
    assert active.logic.configure()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"index": ""}, "the parameter index is empty"),
        ({"index": "missing.usearch"}, "missing.usearch"),
        ({"threshold": "high"}, "must be auto or a number in quotes, got 'high'"),
        ({"vote": "1/8"}, "two labels could win at once"),
        ({"input_qos": "best"}, "must be sensor_data or reliable, got 'best'"),
        ({"max_rate": -1.0}, "must be 0 (no limit) or pictures per second, got -1.0"),
        ({"backend": "caffe"}, "got 'caffe'"),
        ({"topk": 0}, "must be 1 or more, got 0"),
        ({"custom_plugin_lib": "missing.so"}, "custom_plugin_lib missing.so cannot be loaded"),
        ({"engine_file_path": "missing.engine"}, "missing.engine"),
    ],
)
def test_what_cannot_be_configured_is_logged_in_a_sentence(node: Any, parameters: dict, sentence: str) -> None:
    node.parameters.update(parameters)
    assert node.logic.configure() is False
    ((level, text, _),) = node.logger.lines
    assert level == "error"
    assert sentence in text
    assert node.publishers == {}


def test_activating_before_configuring_fails(node: Any) -> None:
    assert node.logic.activate() is False


def test_pictures_that_cannot_be_read_are_refused_in_a_throttled_sentence(active: Any, colour: Colour) -> None:
    message = as_message(colour("red", np.random.default_rng(3)))
    message.encoding = "bayer_rggb8"
    active.subscriptions["image"][1](message)
    assert active.logger.warned.acquire(timeout=PATIENCE)
    level, text, throttle = active.logger.lines[-1]
    assert level == "warning"
    assert "'bayer_rggb8' cannot be read: publish one of rgb8, bgr8, rgba8, bgra8, mono8" in text
    assert throttle > 0
    assert (active.diagnosis().level, active.diagnosis().message) == (DiagnosticStatus.ERROR, text)
    show(active, as_message(colour("red", np.random.default_rng(3))))
    active.logic.deactivate()
    assert active.diagnosis().level == DiagnosticStatus.OK


@pytest.mark.parametrize("field", [{"step": 10}, {"data": array("B", bytes(100))}, {"width": 0}])
def test_a_picture_of_too_few_bytes_is_refused(package: Any, colour: Colour, field: dict) -> None:
    message = as_message(colour("red", np.random.default_rng(3)))
    vars(message).update(field)
    with pytest.raises(Exception, match="look at what publishes it"):
        package.read_message(message)


def test_compressed_bytes_that_are_no_picture_are_refused(package: Any) -> None:
    with pytest.raises(Exception, match=r"the compressed picture \(jpeg\)"):
        package.read_message(ROS.CompressedImage(format="jpeg", data=array("B", b"nothing")))


def test_the_last_picture_joins_the_index_under_the_label_of_the_parameter(active: Any, colour: Colour) -> None:
    image = colour("red", np.random.default_rng(3))[:, :, ::-1] // 2 + 60
    message = as_message(np.ascontiguousarray(image))
    show(active, message)
    active.parameters["item_label"] = "brand/purple"
    answer = active.call("~/add_item")
    assert (answer.success, answer.message) == (True, "ros-12.000000034.jpg is view 1 of brand/purple")
    info = active.publishers["~/vision_info"].messages[-1]
    assert info.database_version == 2
    assert "brand/purple" in active.parameters["class_labels"]
    active.logic.recogniser.judgement = type(active.logic.recogniser.judgement)(threshold=-1.0, margin=0.0)
    assert names(show(active, message))[0] == "brand/purple"


def test_a_label_is_forgotten(active: Any, colour: Colour) -> None:
    active.parameters["item_label"] = "red"
    answer = active.call("~/remove_item")
    assert (answer.success, answer.message) == (True, "3 views of red are forgotten")
    assert "red" not in names(show(active, as_message(colour("blue", np.random.default_rng(3)))))


@pytest.mark.parametrize(
    ("service", "label", "sentence"),
    [
        ("~/add_item", "thing", "no picture was recognised yet: activate the node and show it the thing"),
        ("~/add_item", "", "label"),
        ("~/remove_item", "", "the parameter item_label is empty"),
        ("~/remove_item", "cheese", "cheese"),
    ],
)
def test_what_a_service_cannot_do_is_said_in_its_answer(active: Any, service: str, label: str, sentence: str) -> None:
    active.parameters["item_label"] = label
    answer = active.call(service)
    assert answer.success is False
    assert sentence in answer.message
    assert len(active.publishers["~/vision_info"].messages) == 1


def test_a_blank_picture_does_not_join_the_index(active: Any) -> None:
    assert show(active, as_message(np.full((48, 64, 3), 128, np.uint8))).results is not None
    active.logic._seen = type(active.logic._seen)(
        active.logic._seen.image, type(active.logic._seen.query)(None, {}), "blank"
    )
    active.parameters["item_label"] = "thing"
    assert "the last picture is blank" in active.call("~/add_item").message


def test_another_programs_changes_are_read_when_asked(active: Any, shop_index: Path) -> None:
    with Index.open(shop_index, write=True) as index:
        index.remove("green")
    answer = active.call("~/reload_index")
    assert (answer.success, answer.message) == (True, "9 views of 3 labels")
    assert active.parameters["class_labels"] == ["blue", "red", "yellow"]


def test_an_index_that_is_gone_leaves_the_one_before_in_use(active: Any, shop_index: Path, colour: Colour) -> None:
    shop_index.unlink()
    assert active.call("~/reload_index").success is False
    assert names(show(active, as_message(colour("red", np.random.default_rng(3)))))[0] == "red"


def test_the_diagnostics_tell_how_the_node_fares(active: Any, colour: Colour) -> None:
    show(active, as_message(colour("red", np.random.default_rng(3))))
    status = active.diagnosis()
    values = {one.key: one.value for one in status.values}
    assert (status.level, status.name) == (DiagnosticStatus.OK, "/deepir: recognition")
    assert (values["pictures received"], values["pictures recognised"]) == ("1", "1")
    assert (values["last status"], values["last label"]) == ("match", "red")
    assert {"prepare (ms)", "describe (ms)", "search (ms)"} <= set(values)


def test_a_camera_that_is_silent_is_warned_of(active: Any) -> None:
    active.logic._outputs._since -= 60
    status = active.diagnosis()
    assert status.level == DiagnosticStatus.WARN
    assert "does the camera publish?" in status.message


def test_only_the_newest_picture_waits(package: Any) -> None:
    newest = package.Newest()
    for number in range(5):
        newest.put(number)
    assert (newest.take(), newest.put_count, newest.dropped) == (4, 5, 4)


def test_the_picture_that_is_taken_after_a_pause_is_the_newest(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, now = package.Newest(), [100.0]
    clock = sys.modules["deepir_ros.newest"].time

    def wait(seconds: float) -> None:
        newest.put("newer")
        now[0] += seconds

    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(newest._changed, "wait", wait)
    newest.put("older")
    assert newest.take(not_before=100.5) == "newer"


def test_closing_sends_away_whoever_waits_for_a_picture(package: Any) -> None:
    newest, taken = package.Newest(), []
    thread = threading.Thread(target=lambda: taken.append(newest.take()))
    thread.start()
    newest.close()
    thread.join(PATIENCE)
    assert taken == [None]
