"""The cameras of a machine, from a made-up /sys and /dev, and how they are found again."""

from pathlib import Path

import pytest

from deepir.runtime import local_camera
from deepir.runtime.camera_list import CameraFacts, list_cameras, read_capabilities
from deepir.runtime.camera_state import Trouble

CAPTURE, METADATA, CODEC = 0x04200001, 0x04A00000, 0x04204000


class Machine:
    """Folders like those of Linux."""

    def __init__(self, folder: Path) -> None:
        self.system, self.devices = folder / "sys", folder / "dev"
        self.capabilities: dict[str, int | None] = {}
        (self.devices / "v4l" / "by-id").mkdir(parents=True)
        self.system.mkdir()

    def plug(self, node: str, name: str, capabilities: int | None, *, index: int = 0, stable: str = "") -> None:
        described = self.system / node
        described.mkdir()
        (described / "name").write_text(f"{name}\n")
        (described / "index").write_text(f"{index}\n")
        (self.devices / node).touch()
        self.capabilities[node] = capabilities
        if stable:
            (self.devices / "v4l" / "by-id" / stable).symlink_to(f"../../{node}")

    def cameras(self) -> list[CameraFacts]:
        return list_cameras(self.system, self.devices, lambda node: self.capabilities[node.name])


class FakeCapture:
    def __init__(self, *, opened: bool) -> None:
        self.opened = opened
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def release(self) -> None:
        self.released = True


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.plug("video10", "bcm2835-codec", CODEC)
    machine.plug("video0", "Integrated Camera: Front", CAPTURE)
    machine.plug("video1", "Integrated Camera: Front", METADATA, index=1)
    machine.plug("video2", "HD Pro Webcam C920", CAPTURE, stable="usb-046d_C920-video-index0")
    return machine


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers that are opened; all of them open."""
    numbers: list[int] = []

    def open_device(number: int) -> FakeCapture:
        numbers.append(number)
        return FakeCapture(opened=True)

    monkeypatch.setattr(local_camera, "open_device", open_device)
    return numbers


def test_nodes_that_give_no_pictures_are_passed_over(machine: Machine) -> None:
    assert [(camera.number, camera.node.name) for camera in machine.cameras()] == [(0, "video0"), (1, "video2")]


def test_a_camera_is_listed_with_its_name_and_the_path_that_stays(machine: Machine) -> None:
    facts = machine.cameras()[1]
    assert (facts.name, facts.open_to_us) == ("HD Pro Webcam C920", True)
    assert facts.stable == machine.devices / "v4l" / "by-id" / "usb-046d_C920-video-index0"
    assert facts.text() == f"camera1 {facts.node} (HD Pro Webcam C920) {facts.stable}"


def test_of_a_node_that_cannot_be_asked_the_first_of_its_device_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.plug("video0", "Webcam", None)
    machine.plug("video1", "Webcam", None, index=1)
    assert [camera.node.name for camera in machine.cameras()] == ["video0"]


def test_cameras_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for number in (10, 9, 2):
        machine.plug(f"video{number}", "Webcam", CAPTURE)
    assert [camera.node.name for camera in machine.cameras()] == ["video2", "video9", "video10"]


def test_a_system_without_a_list_has_no_cameras(tmp_path: Path) -> None:
    assert list_cameras(tmp_path / "none", tmp_path) == []


def test_what_is_no_video_node_has_no_capabilities(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    assert read_capabilities(tmp_path / "video0") is None
    assert read_capabilities(tmp_path / "video1") is None


def test_a_number_counts_cameras_and_not_nodes(machine: Machine, opened: list[int]) -> None:
    local_camera.opener_of_number(1, machine.cameras)()
    assert opened == [2]


def test_without_a_list_a_number_is_that_of_the_node(opened: list[int]) -> None:
    local_camera.opener_of_number(3, lambda: [])()
    assert opened == [3]


def test_a_number_too_high_lists_what_there_is(machine: Machine, opened: list[int]) -> None:
    answer = local_camera.opener_of_number(2, machine.cameras)()
    assert isinstance(answer, Trouble)
    assert answer.kind == "not found"
    assert "camera2 is not there; cameras on this machine: camera0 " in answer.sentence
    assert opened == []


def test_a_stable_path_is_followed_anew_each_time(machine: Machine, opened: list[int]) -> None:
    path = machine.devices / "v4l" / "by-id" / "usb-046d_C920-video-index0"
    open_it = local_camera.opener_of_node(path, machine.cameras)
    open_it()
    path.unlink()
    lost = open_it()
    path.symlink_to("../../video5")
    open_it()
    assert isinstance(lost, Trouble)
    assert lost.kind == "not found"
    assert opened == [2, 5]


@pytest.mark.parametrize("name", ["HD Pro Webcam C920", "c920"])
def test_a_camera_is_found_by_words_of_its_name(name: str, machine: Machine, opened: list[int]) -> None:
    local_camera.opener_of_name(name, machine.cameras)()
    assert opened == [2]


def test_a_name_of_two_cameras_names_both(machine: Machine, opened: list[int]) -> None:
    machine.plug("video4", "HD Pro Webcam C920", CAPTURE)
    answer = local_camera.opener_of_name("c920", machine.cameras)()
    assert isinstance(answer, Trouble)
    assert '2 cameras are called "c920"' in answer.sentence
    assert opened == []


def test_a_name_of_no_camera_lists_those_there_are(machine: Machine) -> None:
    answer = local_camera.opener_of_name("Brio", machine.cameras)()
    assert isinstance(answer, Trouble)
    assert (answer.kind, "camera0" in answer.sentence) == ("not found", True)


@pytest.mark.parametrize(
    ("readable", "kind", "cure"), [(False, "refused", "usermod -aG video"), (True, "busy", "fuser")]
)
def test_a_camera_that_does_not_open_says_why(
    readable: bool, kind: str, cure: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = FakeCapture(opened=False)
    monkeypatch.setattr(local_camera, "open_device", lambda _number: capture)
    monkeypatch.setattr("os.access", lambda _path, _mode: readable)
    answer = local_camera.opener_of_number(0, machine.cameras)()
    assert isinstance(answer, Trouble)
    assert (answer.kind, cure in answer.sentence, capture.released) == (kind, True, True)
