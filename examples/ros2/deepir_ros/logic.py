"""What the node does, apart from ROS: it is given a node and the kinds of messages, real ones or a test's."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepir import DeepIRError
from deepir.runtime import Frame, Recogniser
from deepir.runtime.decide import Decider, Deciding
from deepir_ros.items import Items, Seen
from deepir_ros.newest import Newest
from deepir_ros.outputs import Outputs
from deepir_ros.pictures import read_message
from deepir_ros.settings import DEFAULTS, Settings

THROTTLE = 30.0
"""Seconds in which one sentence about pictures that cannot be read is enough."""


@dataclass(frozen=True)
class _Arrived:
    message: Any
    at: float


class Logic:
    """The states of a lifecycle node: configure loads, activate subscribes, deactivate drops, cleanup frees.

    The subscription only stores the newest picture; a thread of its own recognises and publishes.

    Args:
        node: As rclpy's.
        ros: The kinds of messages and qualities of service; see `node.ros_parts`.
    """

    def __init__(self, node: Any, ros: Any) -> None:
        self._node = node
        self._ros = ros
        self.settings: Settings | None = None
        self.recogniser: Recogniser | None = None
        self._outputs: Outputs | None = None
        self._items: Items | None = None
        self._newest: Newest[_Arrived] | None = None
        self._worker: threading.Thread | None = None
        self._subscriptions: list[Any] = []
        self._services: list[Any] = []
        self._seen: Seen | None = None
        for name, default in {**DEFAULTS, "item_label": ""}.items():
            node.declare_parameter(name, default)
        # not an empty list, whose kind ROS cannot tell
        node.declare_parameter("class_labels", [""])

    def configure(self) -> bool:
        """Load the model and the index, and offer what is published; False, and the reason logged, where that fails."""
        try:
            settings = Settings(**{name: self._node.get_parameter(name).value for name in DEFAULTS})
            self.recogniser = settings.open()
        except DeepIRError as error:
            self._node.get_logger().error(str(error))
            return False
        self.settings = settings
        self._items = Items(self.recogniser, Path(settings.index))
        self._outputs = Outputs(self._node, self._ros, self.recogniser, settings.index)
        self._outputs.announce_index()
        trigger = self._ros.Trigger
        self._services = [
            self._node.create_service(trigger, "~/add_item", self._add_item),
            self._node.create_service(trigger, "~/remove_item", self._remove_item),
            self._node.create_service(trigger, "~/reload_index", self._reload_index),
        ]
        self._node.get_logger().info(f"{settings.index}: {self.recogniser.extractor.backend.name}")
        return True

    def activate(self) -> bool:
        """Subscribe, and recognise from now on."""
        settings, recogniser, outputs = self.settings, self.recogniser, self._outputs
        if settings is None or recogniser is None or outputs is None:
            self._node.get_logger().error("the node is activated before it is configured: configure it first")
            return False
        newest = self._newest = Newest()
        outputs.watch(newest)
        decider = Decider(recogniser, Deciding(vote=settings.votes), live=True)
        self._worker = threading.Thread(
            target=self._work, args=(newest, decider, settings.period), name="deepir recognises", daemon=True
        )
        self._worker.start()
        qos = self._ros.sensor_data_qos if settings.input_qos == "sensor_data" else self._ros.reliable_qos
        self._subscriptions = [
            self._node.create_subscription(self._ros.Image, "image", self._receive, qos),
            self._node.create_subscription(self._ros.CompressedImage, "image/compressed", self._receive, qos),
        ]
        return True

    def deactivate(self) -> bool:
        """Subscribe no longer, drop what waits, and let the picture in work be the last."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        if self._newest is not None:
            self._newest.close()
        if self._worker is not None:
            self._worker.join()
        if self._outputs is not None:
            self._outputs.watch(None)
        self._newest, self._worker, self._seen = None, None, None
        return True

    def cleanup(self) -> bool:
        """Offer nothing any more and give the model's memory back."""
        self.deactivate()
        while self._services:
            self._node.destroy_service(self._services.pop())
        if self._outputs is not None:
            self._outputs.close()
        if self.recogniser is not None:
            self.recogniser.close()
        self.settings, self.recogniser, self._outputs, self._items = None, None, None, None
        return True

    def _receive(self, message: Any) -> None:
        # a picture that comes while the node is deactivated finds nothing to be left in
        newest = self._newest
        if newest is not None:
            newest.put(_Arrived(message, time.monotonic()))

    def _work(self, newest: Newest[_Arrived], decider: Decider, period: float) -> None:
        number, due = 0, 0.0
        while (arrived := newest.take(due)) is not None:
            due = time.monotonic() + period
            try:
                self._recognise(arrived, decider, number)
            except DeepIRError as error:
                if self._outputs is not None:
                    self._outputs.note_refusal(str(error))
                self._node.get_logger().warning(str(error), throttle_duration_sec=THROTTLE)
            except Exception as error:
                if self._outputs is not None:
                    self._outputs.note_refusal(f"recognising ended, deactivate and activate the node: {error!r}")
                raise
            number += 1

    def _recognise(self, arrived: _Arrived, decider: Decider, number: int) -> None:
        recogniser, outputs = self.recogniser, self._outputs
        if recogniser is None or outputs is None:
            return
        header = arrived.message.header
        image = read_message(arrived.message)
        query = recogniser.describe(image)
        frame = Frame(number, image, arrived.at, None, "image")
        recognition, decision = decider(frame, query, recogniser.index)
        self._seen = Seen(image, query, f"ros-{header.stamp.sec}.{header.stamp.nanosec:09}.jpg")
        outputs.publish(header, frame, query, recognition, decision)

    def _add_item(self, _request: Any, response: Any) -> Any:
        return self._answer(response, lambda items: items.add(self._item_label(), self._seen))

    def _remove_item(self, _request: Any, response: Any) -> Any:
        return self._answer(response, lambda items: items.remove(self._item_label()))

    def _reload_index(self, _request: Any, response: Any) -> Any:
        return self._answer(response, lambda items: items.reload())

    def _item_label(self) -> str:
        return str(self._node.get_parameter("item_label").value)

    def _answer(self, response: Any, work: Any) -> Any:
        """Fill a Trigger's response with what came of the work."""
        if self._items is None or self._outputs is None:
            response.success, response.message = False, "the node is not configured"
            return response
        try:
            response.message = work(self._items)
            response.success = True
        except DeepIRError as error:
            response.success, response.message = False, str(error)
            return response
        self._outputs.announce_index()
        return response
