"""Recording calibration pictures: which frames are kept, and what is there whatever ends it."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import deepir.calib.recorded as module
from deepir.calib.onnx_file import write_card
from deepir.calib.record_cli import record_command
from deepir.calib.recorded import RecordingConfig, RecordingTally, record_pictures
from deepir.card import INPUT_NAME, OUTPUT_NAME, ModelCard
from deepir.errors import InputError, OptionError, SourceError
from deepir.image import Image, list_images, read_image
from deepir.runtime.frame import Frame
from deepir.spec import ModelSpec


def scene(number: int) -> Image:
    """A place that resembles no other: large shapes with fine texture."""
    rng = np.random.default_rng(number)
    shapes = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    texture = cv2.resize(rng.normal(0, 40, (60, 80)), (160, 120))[:, :, None]
    return np.clip(shapes + texture, 0, 255).astype(np.uint8)


def blurred(image: Image) -> Image:
    return cv2.GaussianBlur(image, (0, 0), 4)


def write_video(path: Path, images: Sequence[Image], fps: float = 10.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (160, 120))
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def record(*words: object) -> Result:
    return CliRunner().invoke(record_command, [str(word) for word in words])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Camera:
    """Gives frames a given time apart, then ends as it is told to."""

    live, size, fps, name = True, None, None, "camera0"

    def __init__(self, images: Sequence[Image], *, apart: float = 1.0, end: BaseException | None = None) -> None:
        self._images, self._apart, self._end = images, apart, end
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        for number, image in enumerate(self._images):
            yield Frame(number, image, 1000 + number * self._apart, None, self.name)
        if self._end is not None:
            raise self._end

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Camera], Camera]:
    """plug_in(camera) makes every source that camera."""

    def plug(camera: Camera) -> Camera:
        monkeypatch.setattr(module, "open_source", lambda _word: camera)
        return camera

    return plug


def test_every_different_frame_of_a_video_becomes_a_numbered_jpeg(tmp_path: Path) -> None:
    video = write_video(tmp_path / "walk.avi", [scene(number) for number in range(5)], fps=1)
    result = record(video, "-o", tmp_path / "photos")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "photos") == [f"{number:06d}.jpg" for number in range(1, 6)]
    assert f"next: deepir-calib MODEL.onnx --images {tmp_path / 'photos'}" in result.stderr
    written = read_image(tmp_path / "photos" / "000003.jpg").astype(int)
    assert np.abs(written - scene(2)).mean() < 12
    assert np.abs(written - scene(2)[:, :, ::-1]).mean() > 30


def test_frames_closer_than_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    video = write_video(tmp_path / "walk.avi", [scene(number) for number in range(20)], fps=10)
    counts = [
        json.loads(record(video, "-o", tmp_path / str(every), "--json", "--every", every).stdout)["kept"]
        for every in (0, 0.5, 1.0)
    ]
    assert counts == [20, 4, 2]


def test_a_video_that_holds_no_times_is_spaced_by_its_frame_rate(
    tmp_path: Path, plug_in: Callable[[Camera], Camera]
) -> None:
    camera = plug_in(Camera([]))
    camera.live, camera.fps = False, 10.0
    frames = [Frame(number, scene(number), 0.0, 0.0, "raw") for number in range(20)]
    camera.__class__ = type("Raw", (Camera,), {"__iter__": lambda _self: iter(frames)})
    record_pictures(RecordingConfig(source="raw", out=tmp_path / "photos"), tally := RecordingTally())
    assert tally.kept == 4


def test_frames_of_a_camera_are_spaced_by_when_they_arrived(
    tmp_path: Path, plug_in: Callable[[Camera], Camera]
) -> None:
    camera = plug_in(Camera([scene(number) for number in range(21)], apart=0.1))
    record_pictures(RecordingConfig(source="camera0", out=tmp_path / "photos"), tally := RecordingTally())
    assert (tally.kept, camera.closed) == (5, True)


def test_pictures_of_a_folder_are_not_spaced(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), scene(number))
    assert json.loads(record(tmp_path / "in", "-o", tmp_path / "out", "--json").stdout)["kept"] == 4


def test_a_scene_that_stands_still_is_kept_once_and_again_only_when_it_changed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    still = [np.clip(scene(1) + noise.normal(0, 4, (120, 160, 3)), 0, 255).astype(np.uint8) for _ in range(6)]
    video = write_video(tmp_path / "still.avi", [*still, scene(2), *still], fps=1)
    counts = json.loads(record(video, "-o", tmp_path / "photos", "--json").stdout)
    assert (counts["kept"], counts["duplicates"]) == (2, 11)


def test_blurred_and_blank_frames_are_left_out(tmp_path: Path) -> None:
    frames = [scene(number) for number in range(6)]
    frames += [blurred(scene(7)), scene(8), np.full((120, 160, 3), 3, np.uint8), blurred(scene(9))]
    counts = json.loads(
        record(write_video(tmp_path / "walk.avi", frames, fps=1), "-o", tmp_path / "photos", "--json").stdout
    )
    assert {key: counts[key] for key in ("looked_at", "kept", "blurred", "blank")} == {
        "looked_at": 10,
        "kept": 7,
        "blurred": 2,
        "blank": 1,
    }


def test_a_camera_that_is_always_soft_is_not_blurred(tmp_path: Path) -> None:
    video = write_video(tmp_path / "soft.avi", [blurred(scene(number)) for number in range(6)], fps=1)
    assert json.loads(record(video, "-o", tmp_path / "photos", "--json").stdout)["kept"] == 6


def test_half_the_light_is_no_blur(tmp_path: Path) -> None:
    dark = [cv2.convertScaleAbs(scene(number), alpha=0.3) for number in range(6, 10)]
    video = write_video(tmp_path / "dusk.avi", [*(scene(number) for number in range(6)), *dark], fps=1)
    assert json.loads(record(video, "-o", tmp_path / "photos", "--json").stdout)["blurred"] == 0


def test_a_place_with_softer_textures_becomes_the_usual_one(
    tmp_path: Path, plug_in: Callable[[Camera], Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = [blurred(scene(number)) for number in range(90)]
    monkeypatch.setattr(module, "_USUAL_FRAMES", 40)
    plug_in(Camera([*(scene(number) for number in range(200, 240)), *soft]))
    record_pictures(RecordingConfig(source="camera0", out=tmp_path / "photos"), tally := RecordingTally())
    assert tally.blurred == pytest.approx(20, abs=1)
    assert tally.kept == 130 - tally.blurred


def test_it_stops_at_the_number_asked_for(tmp_path: Path, plug_in: Callable[[Camera], Camera]) -> None:
    camera = plug_in(Camera([scene(number) for number in range(9)], end=AssertionError("read on")))
    record_pictures(RecordingConfig(source="camera0", out=tmp_path / "photos", most=3), tally := RecordingTally())
    assert (tally.looked_at, len(names(tmp_path / "photos")), camera.closed) == (3, 3, True)


def test_ctrl_c_keeps_what_there_is_and_says_so(tmp_path: Path, plug_in: Callable[[Camera], Camera]) -> None:
    camera = plug_in(Camera([scene(number) for number in range(4)], end=KeyboardInterrupt()))
    result = record("camera0", "-o", tmp_path / "photos", "--json")
    assert result.exit_code == 130
    assert len(names(tmp_path / "photos")) == json.loads(result.stdout)["kept"] == 4
    assert "kept 4 of 4 frames" in result.stderr
    assert "next:" not in result.stderr
    assert camera.closed


def test_a_lost_camera_keeps_what_there_is(tmp_path: Path, plug_in: Callable[[Camera], Camera]) -> None:
    plug_in(Camera([scene(0), scene(1)], end=SourceError("lost camera0 after 2 frames")))
    result = record("camera0", "-o", tmp_path / "photos")
    assert result.exit_code == 7
    assert "kept 2 of 2 frames" in result.stderr
    assert names(tmp_path / "photos") == ["000001.jpg", "000002.jpg"]


def test_a_picture_that_cannot_be_written_whole_is_not_there(
    tmp_path: Path, plug_in: Callable[[Camera], Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _content: bytes) -> int:
        raise OSError(28, "No space left on device")

    plug_in(Camera([scene(0)]))
    monkeypatch.setattr(Path, "write_bytes", full)
    result = record("camera0", "-o", tmp_path / "photos")
    assert result.exit_code == 3
    assert "No space left on device" in result.stderr
    assert names(tmp_path / "photos") == []


def test_a_folder_that_is_not_empty_is_refused_unless_it_is_added_to(tmp_path: Path) -> None:
    first = write_video(tmp_path / "first.avi", [scene(0), scene(1)], fps=1)
    second = write_video(tmp_path / "second.avi", [scene(1), scene(2)], fps=1)
    assert record(first, "-o", tmp_path / "photos").exit_code == 0
    refused = record(second, "-o", tmp_path / "photos")
    assert refused.exit_code == 2
    assert "photos is not empty: --append adds to it" in refused.stderr
    added = record(second, "-o", tmp_path / "photos", "--append", "--json")
    counts = json.loads(added.stdout)
    # the place that was recorded before is known
    assert (counts["earlier"], counts["kept"], counts["duplicates"]) == (2, 1, 1)
    assert names(tmp_path / "photos") == ["000001.jpg", "000002.jpg", "000003.jpg"]


def test_pictures_under_other_names_are_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("front.jpg", "0000041.png", "\u0663.jpg")):
        assert cv2.imwrite(str(folder / "x.png"), scene(number))
        (folder / "x.png").rename(folder / name)
    before = {path: path.read_bytes() for path in list_images(folder)}
    video = write_video(tmp_path / "walk.avi", [scene(8), scene(9)], fps=1)
    assert record(video, "-o", folder, "--append").exit_code == 0
    assert {path: path.read_bytes() for path in before} == before
    assert {"000042.jpg", "000043.jpg"} <= set(names(folder))


def test_a_folder_with_other_files_alone_can_be_added_to(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").touch()
    video = write_video(tmp_path / "walk.avi", [scene(0)], fps=1)
    assert record(video, "-o", tmp_path / "photos", "--append").exit_code == 0


def write_model(path: Path) -> Path:
    """A convolution, the largest value of each channel, L2: a few hundred bytes that see a small thing."""
    kernel = np.random.default_rng(0).normal(size=(12, 3, 3, 3)).astype(np.float32)
    kernel -= kernel.mean(axis=(1, 2, 3), keepdims=True)
    spec = ModelSpec(
        backbone="test:conv",
        sizes=((120, 160),),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        stride=1,
        channels=12,
        dim=12,
        weights="a",
    )
    nodes = [
        helper.make_node("Conv", [INPUT_NAME, "kernel"], ["map"]),
        helper.make_node("GlobalMaxPool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("LpNormalization", ["flat"], [OUTPUT_NAME], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", 3, 120, 160])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 12])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_card(proto, ModelCard(spec))
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_model_keeps_a_scene_in_which_a_small_thing_changed(tmp_path: Path) -> None:
    table = blurred(scene(1))
    changed = table.copy()
    changed[60:66, 80:86] = 255 * np.random.default_rng(2).integers(0, 2, (6, 6, 3))
    (tmp_path / "views").mkdir()
    for number, view in enumerate((table, changed, table)):
        assert cv2.imwrite(str(tmp_path / "views" / f"{number}.png"), view)
    assert json.loads(record(tmp_path / "views", "-o", tmp_path / "pixels", "--json").stdout)["kept"] == 1
    words = (tmp_path / "views", "-o", tmp_path / "seen", "--json", "--model", write_model(tmp_path / "model.onnx"))
    result = record(*words)
    counts = json.loads(result.stdout)
    assert (counts["kept"], counts["duplicates"]) == (2, 1)
    assert f"next: deepir-calib {tmp_path / 'model.onnx'} --images" in result.stderr
    again = record(*words, "--append", "-q")
    assert json.loads(again.stdout)["duplicates"] == 3


def test_few_pictures_are_warned_about(tmp_path: Path) -> None:
    result = record(write_video(tmp_path / "walk.avi", [scene(0)], fps=1), "-o", tmp_path / "photos", "-q")
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"warning: {tmp_path / 'photos'} holds 1 pictures, calibration needs 32 or more: "
        "record other places and things with --append"
    ]


def test_a_source_that_is_not_there_leaves_no_folder_behind(tmp_path: Path) -> None:
    result = record(tmp_path / "nowhere.mp4", "-o", tmp_path / "photos", "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no such source" in result.stderr
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize("content", [b"", b"not a video" * 100])
def test_a_damaged_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "walk.mp4").write_bytes(content)
    result = record(tmp_path / "walk.mp4", "-o", tmp_path / "photos")
    assert result.exit_code == 3
    assert "cannot decode" in result.stderr


def test_the_password_of_a_camera_is_never_shown(tmp_path: Path) -> None:
    result = record("rtsp://robot:secret@127.0.0.1:1/x", "-o", tmp_path / "photos")
    assert result.exit_code == 7
    assert "rtsp://***@127.0.0.1:1/x" in result.stderr
    assert "secret" not in result.output


def test_a_damaged_picture_in_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no")
    config = RecordingConfig(
        source=str(write_video(tmp_path / "walk.avi", [scene(0)])), out=tmp_path / "photos", append=True
    )
    with pytest.raises(InputError, match=r"cannot decode .*photos/a\.jpg"):
        record_pictures(config, RecordingTally())


def test_a_file_is_no_folder_for_pictures(tmp_path: Path) -> None:
    (tmp_path / "photos").touch()
    with pytest.raises(InputError, match="photos is a file"):
        record_pictures(RecordingConfig(source="camera0", out=tmp_path / "photos"), RecordingTally())


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("most", 0, "--num must be 1 or more, got 0"),
        ("every", -1.0, "--every takes seconds, 0 or more, got -1"),
        ("every", float("nan"), "--every takes seconds, 0 or more, got nan"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, option: str, value: float, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        RecordingConfig(**{"source": "camera0", "out": tmp_path, option: value})  # type: ignore[arg-type]


def test_progress_says_what_was_kept_and_what_is_to_go(tmp_path: Path, plug_in: Callable[[Camera], Camera]) -> None:
    plug_in(Camera([scene(0), scene(0)]))
    lines: list[str] = []
    record_pictures(RecordingConfig(source="camera0", out=tmp_path / "photos", most=5), RecordingTally(), lines.append)
    assert lines[-1] == "kept 1 of 2 frames: 1 are near-duplicates, 0 blurred, 0 blank; 4 to go"
