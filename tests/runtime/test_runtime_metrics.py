"""Metrics of a running loop, read back by Prometheus' own parser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepir.runtime import Recogniser
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import Patience, Trouble
from deepir.runtime.frame import Source
from deepir.runtime.metrics import Metrics
from deepir.runtime.recording import ImageFiles
from deepir.runtime.result import Result
from deepir.runtime.sink import SinkState
from deepir.runtime.vitals import Vitals

parser = pytest.importorskip("prometheus_client.parser")

Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Webhook:
    """A sink with news."""

    name = "webhook"
    state = SinkState(sent=3, waiting=2, dropped=1)

    def take(self, result: Result) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


@pytest.fixture
def recogniser(shop: Path) -> Iterator[Recogniser]:
    with Recogniser.open(shop) as opened:
        yield opened


def read(vitals: Vitals) -> Sample:
    families = parser.text_string_to_metric_families(Metrics(vitals).text().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def vitals_of(recogniser: Recogniser, source: Source | None = None) -> Vitals:
    return Vitals(recogniser, source or ImageFiles([], "pictures"), [Webhook()])


def test_answers_ages_and_stages_are_read_back_in_seconds(
    recogniser: Recogniser, make_answer: Callable[..., Result]
) -> None:
    vitals = vitals_of(recogniser)
    for number, label in enumerate(["red", "red", None]):
        vitals.note(make_answer(number, label))
    found = read(vitals)
    assert found["deepir_results_total", (("status", "match"),)] == 2
    assert found["deepir_results_total", (("status", "unknown"),)] == 1
    assert found["deepir_results_total", (("status", "ambiguous"),)] == 0
    assert found["deepir_age_seconds", (("quantile", "0.5"),)] == pytest.approx(0.05)
    assert found["deepir_stage_seconds", (("quantile", "0.99"), ("stage", "describe"))] == pytest.approx(0.001)
    assert found["deepir_results_per_second", ()] > 0


def test_sinks_the_index_and_the_process_are_told(recogniser: Recogniser) -> None:
    found = read(vitals_of(recogniser))
    told = {
        name: found[f"deepir_sink_{name}", (("sink", "webhook"),)]
        for name in ("sent_total", "dropped_total", "waiting")
    }
    assert told == {"sent_total": 3, "dropped_total": 1, "waiting": 2}
    assert (found["deepir_index_items", ()], found["deepir_index_labels", ()]) == (12, 4)
    assert found["deepir_threshold", ()] == pytest.approx(recogniser.threshold)
    assert found["process_resident_memory_bytes", ()] > 1e6
    (build,) = (labels for name, labels in found if name == "deepir_build_info")
    assert dict(build)["backbone"] == "test:conv"


def test_before_the_first_answer_there_are_no_quantiles_and_of_files_no_camera(recogniser: Recogniser) -> None:
    names = {name for name, _ in read(vitals_of(recogniser))}
    assert not names & {"deepir_age_seconds", "deepir_stage_seconds", "deepir_camera_up"}


def test_a_lost_camera_is_down_and_its_outages_are_counted(recogniser: Recogniser) -> None:
    with Camera(lambda: Trouble("refused", "nobody"), "rtsp://camera", Patience(on_lost="wait")) as camera:
        assert camera.wait_for("lost", 60)
        found = read(vitals_of(recogniser, camera))
    assert found["deepir_camera_up", ()] == 0
    assert found["deepir_camera_outages_total", ()] >= 1
    assert found["deepir_camera_frames_total", ()] == 0
