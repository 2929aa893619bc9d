"""What the node publishes: classification, descriptor, overlay, which labels there are, and how it fares."""

import time
from array import array
from typing import Any

from deepir.runtime import Described, Frame, Recogniser, Recognition
from deepir.runtime.annotate import annotate
from deepir.runtime.decide import Decision
from deepir_ros.newest import Newest
from deepir_ros.pictures import fill_message

_SECONDS = 1.0
"""Between two diagnostics, as rqt_robot_monitor expects them."""

_STALE = 5.0
"""Seconds without an answer after which an active node warns."""

_DEPTH = 10


class Outputs:
    """The publishers, and what is counted for /diagnostics.

    Args:
        node, ros: As of `Logic`.
        recogniser: Whose index is announced.
        index: Where that index lies.
    """

    def __init__(self, node: Any, ros: Any, recogniser: Recogniser, index: str) -> None:
        self._node = node
        self._ros = ros
        self._recogniser = recogniser
        self._index = index
        self._version = 0
        self._newest: Newest[Any] | None = None
        self._since = time.monotonic()
        self._answered, self._refused, self._refusal = 0, 0, ""
        self._last: Recognition | None = None
        self._classification = node.create_publisher(ros.Classification, "~/classification", _DEPTH)
        self._info = node.create_publisher(ros.VisionInfo, "~/vision_info", ros.latched_qos)
        self._descriptor = node.create_publisher(ros.Float32MultiArray, "~/descriptor", _DEPTH)
        self._overlay = node.create_publisher(ros.Image, "~/overlay", _DEPTH)
        self._diagnostics = node.create_publisher(ros.DiagnosticArray, "/diagnostics", _DEPTH)
        self._timer = node.create_timer(_SECONDS, self.diagnose)

    def announce_index(self) -> None:
        """Publish which index answers, and its labels as the parameter class_labels."""
        self._version += 1
        labels = sorted(self._recogniser.index.labels)
        kind = self._ros.Parameter.Type.STRING_ARRAY
        self._node.set_parameters([self._ros.Parameter("class_labels", kind, labels)])
        info = self._ros.VisionInfo()
        info.header.stamp = self._node.get_clock().now().to_msg()
        info.method = f"deepir {self._recogniser.extractor.spec.fingerprint}"
        info.database_location = f"{self._node.get_fully_qualified_name()}/class_labels"
        info.database_version = self._version
        self._info.publish(info)

    def publish(
        self, header: Any, frame: Frame, query: Described, recognition: Recognition, decision: Decision | None
    ) -> None:
        """What one picture shows, under the header that the picture came with."""
        self._answered, self._last = self._answered + 1, recognition
        self._since, self._refusal = time.monotonic(), ""
        answer = self._ros.Classification()
        answer.header = header
        answer.results = [self._hypothesis(*one) for one in _hypotheses(recognition, decision)]
        self._classification.publish(answer)
        if query.query_1d is not None:
            size = len(query.query_1d)
            message = self._ros.Float32MultiArray()
            message.layout.dim = [self._ros.MultiArrayDimension(label="descriptor", size=size, stride=size)]
            message.data = array("f", query.query_1d.tobytes())
            self._descriptor.publish(message)
        if self._overlay.get_subscription_count():
            overlay = self._ros.Image()
            overlay.header = header
            fill_message(overlay, annotate(frame.image, recognition))
            self._overlay.publish(overlay)

    def note_refusal(self, why: str) -> None:
        """Count a picture that could not be recognised."""
        self._refused += 1
        self._refusal = why

    def watch(self, newest: Newest[Any] | None) -> None:
        """Tell of what arrives there; None while the node is not active."""
        self._newest, self._since, self._refusal = newest, time.monotonic(), ""

    def diagnose(self) -> None:
        """Publish how the node fares."""
        newest, last, kinds = self._newest, self._last, self._ros.DiagnosticStatus
        silent = time.monotonic() - self._since
        level, message = kinds.OK, "inactive" if newest is None else "recognising"
        if newest is not None and self._refusal:
            level, message = kinds.ERROR, self._refusal
        if newest is not None and silent > _STALE and not self._refusal:
            level, message = kinds.WARN, f"no picture for {silent:.0f} s: does the camera publish?"
        values: dict[str, object] = {
            "pictures received": newest.put_count if newest else 0,
            "pictures replaced by newer ones": newest.dropped if newest else 0,
            "pictures recognised": self._answered,
            "pictures refused": self._refused,
            "last status": last.status if last else "",
            "last label": (last.label or "") if last else "",
            **{f"{step} (ms)": f"{value:.1f}" for step, value in (last.milliseconds if last else {}).items()},
            "model runs on": self._recogniser.extractor.backend.name,
            "index": f"{self._index}: {len(self._recogniser.index)} views",
        }
        status = kinds()
        status.level, status.message = level, message
        status.name = f"{self._node.get_fully_qualified_name()}: recognition"
        status.values = [self._ros.KeyValue(key=key, value=str(value)) for key, value in values.items()]
        report = self._ros.DiagnosticArray()
        report.header.stamp = self._node.get_clock().now().to_msg()
        report.status = [status]
        self._diagnostics.publish(report)

    def close(self) -> None:
        """Publish nothing any more."""
        self._node.destroy_timer(self._timer)
        for publisher in (self._classification, self._info, self._descriptor, self._overlay, self._diagnostics):
            self._node.destroy_publisher(publisher)

    def _hypothesis(self, label: str, similarity: float) -> Any:
        hypothesis = self._ros.ObjectHypothesis()
        hypothesis.class_id, hypothesis.score = label, float(similarity)
        return hypothesis


def _hypotheses(recognition: Recognition, decision: Decision | None) -> list[tuple[str, float]]:
    """Labels with their similarity, the answer first; none where nothing is known for certain.

    Who reads only the first must not take a doubt for an answer.
    """
    status = recognition.status if decision is None else decision.status
    label = recognition.label if decision is None else decision.label
    if status != "match" or label is None:
        return []
    similarity = recognition.similarity if decision is None else decision.similarity or 0.0
    return [(label, similarity), *(one for one in recognition.top if one[0] != label)]
