"""OpenVINO: equal to ONNX Runtime, functions written out, the precision chosen by proof, what is kept on disk."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deepir.calib.derive import plain_int8
from deepir.calib.onnx_file import write_onnx
from deepir.card import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelCard
from deepir.distill.checkpoint import Model
from deepir.errors import EngineError, GateError, MissingDependency, ModelError, ShapeError
from deepir.export.graph import build_onnx
from deepir.gate import GateLimits
from deepir.image import prepare, read_image
from deepir.runtime import openvino_hint
from deepir.runtime.cache import cache_folder, kept_record
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.openvino_model import inline, reason
from deepir.runtime.openvino_vnni import NO_VNNI, lacks_vnni
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.self_check import PROOF_PICTURES, made_up_pictures, proof_inputs, prove_backend

pytest.importorskip("openvino")

SIDE = 64
UNREACHABLE = GateLimits(cosine_min=2.0)
NEARLY_ONE = GateLimits(cosine_min=0.9999995, cosine_mean=0.9999995, agreement=0)


@pytest.fixture(scope="module")
def master(make_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP32 file as deepir-export writes it, with the function of its pooling."""
    path = tmp_path_factory.mktemp("master") / "tiny.onnx"
    write_onnx(build_onnx(make_model(dim=6)), path)
    return path


@pytest.fixture(scope="module")
def int8(master: Path) -> Path:
    proto = onnx.load(master)
    images = np.random.default_rng(0).normal(size=(4, 3, SIDE, SIDE)).astype(np.float32)
    quantised = plain_int8(proto, lambda: [{"images": images}])
    path = master.with_name("tiny.int8.onnx")
    write_onnx(quantised, path)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def given_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """Milliseconds that the trials find for each precision; the user's own cache stays as it is."""
    times = {"bf16": 1.0, "f16": 1.0, "f32": 2.0}
    monkeypatch.setattr(openvino_hint, "milliseconds_each", lambda run: times[run.func.__self__.precision])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return times


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(3).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def compiled_files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.blob"))


def compiles(caplog: pytest.LogCaptureFixture) -> int:
    return sum("OpenVINO compiled" in line for line in caplog.messages)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_gives_what_onnx_runtime_gives_for_any_batch(master: Path, cache: Path, count: int) -> None:
    with OpenVinoBackend(master, hint="f32", cache=cache) as backend, OnnxBackend(master, "cpu") as reference:
        np.testing.assert_allclose(backend.run(images(count)), reference.run(images(count)), atol=1e-5)
        assert backend.card == reference.card
        assert backend.name == "OpenVINO, CPU (f32)"


@pytest.mark.skipif(lacks_vnni(), reason=NO_VNNI)
def test_it_runs_int8_files_with_one_thread(int8: Path, cache: Path) -> None:
    with OpenVinoBackend(int8, threads=1, cache=cache) as backend, OnnxBackend(int8, "cpu") as reference:
        cosines = np.sum(backend.run(images(4)) * reference.run(images(4)), axis=1)
    assert cosines.min() > 0.99


def test_the_result_of_a_run_outlives_the_next_run(master: Path, cache: Path) -> None:
    with OpenVinoBackend(master, hint="f32", cache=cache) as backend:
        first = backend.run(images(1))
        before = first.copy()
        backend.run(images(2)[1:])
    np.testing.assert_array_equal(first, before)


def test_functions_are_written_out_and_the_card_stays(master: Path) -> None:
    content, card = inline(master)
    proto, before = onnx.load_from_string(content), onnx.load(master)
    assert before.functions
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert card.spec.dim == 6
    assert METADATA_KEY in {entry.key for entry in proto.metadata_props}


def uint8_file(path: Path, card: ModelCard) -> Path:
    """Cast, channels first, global mean: takes uint8 (N, 32, 32, 3) and gives three values."""
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("GlobalAveragePool", ["nchw"], ["means"]),
        helper.make_node("Flatten", ["means"], [OUTPUT_NAME]),
    ]
    given = [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", 32, 32, 3])]
    wanted = [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph(nodes, "bytes", given, wanted)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, {METADATA_KEY: card.to_json()})
    onnx.save(proto, str(path))
    return path


def test_it_takes_pictures_of_bytes_and_only_those(
    tmp_path: Path, cache: Path, make_card: Callable[..., ModelCard]
) -> None:
    path = uint8_file(tmp_path / "bytes.onnx", ModelCard(make_card().spec, pixels="uint8"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with OpenVinoBackend(path, hint="f32", cache=cache) as backend:
        np.testing.assert_allclose(backend.run(pixels), pixels.mean(axis=(1, 2)), rtol=1e-5)
        with pytest.raises(ShapeError, match="uint8"):
            backend.run(pixels.astype(np.float32))


def several_inputs_file(path: Path, card: ModelCard) -> Path:
    """images_0 and images_1 of two sizes, their global means side by side."""
    shapes = {name: ["N", 3, *size] for name, size in zip(card.inputs(), card.spec.sizes, strict=True)}
    nodes = [helper.make_node("GlobalAveragePool", [name], [f"{name}_mean"]) for name in shapes]
    nodes.append(helper.make_node("Concat", [f"{name}_mean" for name in shapes], ["both"], axis=1))
    nodes.append(helper.make_node("Flatten", ["both"], [OUTPUT_NAME]))
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    wanted = [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 6])]
    graph = helper.make_graph(nodes, "two", given, wanted)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, {METADATA_KEY: card.to_json()})
    onnx.save(proto, str(path))
    return path


def test_several_inputs_are_fed_in_the_order_of_the_card(
    tmp_path: Path, cache: Path, make_card: Callable[..., ModelCard]
) -> None:
    spec = make_card().spec.at_sizes(((32, 32), (48, 64)))
    path = several_inputs_file(tmp_path / "two.onnx", ModelCard(spec))
    small, large = (np.full((2, 3, *size), value, np.float32) for size, value in zip(spec.sizes, (1, 5), strict=True))
    with OpenVinoBackend(path, hint="f32", cache=cache) as backend:
        np.testing.assert_allclose(backend.run(small, large), [[1, 1, 1, 5, 5, 5]] * 2, rtol=1e-6)
        with pytest.raises(ShapeError, match=r"2 arrays \(images_0, images_1\), got 1"):
            backend.run(small)


def test_images_of_another_size_are_refused(master: Path, cache: Path) -> None:
    with OpenVinoBackend(master, hint="f32", cache=cache) as backend, pytest.raises(ShapeError, match="64"):
        backend.run(np.zeros((1, 3, 32, 32), np.float32))


def test_a_closed_model_says_so(master: Path, cache: Path) -> None:
    backend = OpenVinoBackend(master, hint="f32", cache=cache)
    backend.close()
    with pytest.raises(EngineError, match="was closed"):
        backend.run(images(1))


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_damaged_weights_are_said_instead_of_nan_given(
    tmp_path: Path, cache: Path, factor: float, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]
) -> None:
    path = write_model(tmp_path / "nan.onnx", card=make_card(), factor=factor)
    with OpenVinoBackend(path, hint="f32", cache=cache) as backend, pytest.raises(ModelError, match="NaN or infinity"):
        backend.run(np.ones((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize("kept", [0, 1, 100, 800])
def test_a_truncated_file_is_one_sentence_and_nothing_else(
    model: Path, cache: Path, kept: int, capfd: pytest.CaptureFixture[str]
) -> None:
    model.write_bytes(model.read_bytes()[:kept])
    with pytest.raises(ModelError, match=rf"\({kept} bytes\) is truncated or not an ONNX model") as caught:
        OpenVinoBackend(model, cache=cache)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_and_a_foreign_one_are_named(
    tmp_path: Path, cache: Path, write_model: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=r"no such model: .*nothing\.onnx"):
        OpenVinoBackend(tmp_path / "nothing.onnx", cache=cache)
    with pytest.raises(ModelError, match="without a deepir card"):
        OpenVinoBackend(write_model(tmp_path / "foreign.onnx", card=None), cache=cache)


def test_without_openvino_the_error_says_what_to_install(master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency, match=r"openvino.*pip install 'deepir\[cpu\]'"):
        OpenVinoBackend(master)


def test_an_operator_that_openvino_lacks_is_one_sentence(
    tmp_path: Path, cache: Path, make_card: Callable[..., ModelCard]
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", [INPUT_NAME], [OUTPUT_NAME])],
        "determinant",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 3])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, {METADATA_KEY: make_card().to_json()})
    path = tmp_path / "det.onnx"
    onnx.save(proto, str(path))
    with pytest.raises(EngineError, match=r"OpenVINO does not run .*det\.onnx: version .*; take ONNX") as caught:
        OpenVinoBackend(path, hint="f32", cache=cache)
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_the_sentence_of_an_error_is_found_below_the_places_in_the_source() -> None:
    error = RuntimeError("Exception from src/core.cpp:84:\nCheck 'x' failed at src/y.cpp:1:\nNo rule for Foo.\nmore")
    assert reason(error) == "No rule for Foo"
    assert reason(RuntimeError("")) == "RuntimeError"
    assert reason(RuntimeError("Check 'x' failed at y")) == "Check 'x' failed at y"


def test_the_second_load_compiles_nothing(master: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with OpenVinoBackend(master, hint="f32", cache=cache) as backend:
        first = backend.run(images(2))
    assert (compiles(caplog), len(compiled_files(cache))) == (1, 1)
    with OpenVinoBackend(master, hint="f32", cache=cache) as backend:
        np.testing.assert_array_equal(backend.run(images(2)), first)
        assert backend.card.spec.dim == 6
    assert compiles(caplog) == 1


def test_another_content_or_another_hint_is_compiled_anew(
    master: Path, int8: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for path, hint in ((master, "f32"), (master, "auto"), (int8, "auto")):
        OpenVinoBackend(path, hint=hint, cache=cache).close()
    assert (compiles(caplog), len(compiled_files(cache))) == (3, 3)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 255]) + content[-99:]


def without_weights(content: bytes) -> bytes:
    return content.partition(b"\n")[0]


@pytest.mark.parametrize(
    "damage", [truncated, flipped, without_weights, lambda _: b"", lambda _: b"[]\n", lambda _: b"7"]
)
def test_a_damaged_compiled_form_is_made_again(
    master: Path, cache: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    OpenVinoBackend(master, hint="f32", cache=cache).close()
    kept = compiled_files(cache)[0]
    kept.write_bytes(damage(kept.read_bytes()))
    caplog.set_level(logging.INFO)
    with OpenVinoBackend(master, hint="f32", cache=cache) as backend, OnnxBackend(master, "cpu") as reference:
        np.testing.assert_allclose(backend.run(images(1)), reference.run(images(1)), atol=1e-5)
    assert compiles(caplog) == 1
    OpenVinoBackend(master, hint="f32", cache=cache).close()
    assert compiles(caplog) == 1


def test_what_openvino_itself_refuses_to_load_is_made_again(
    master: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    OpenVinoBackend(master, hint="f32", cache=cache).close()
    kept = compiled_files(cache)[0]
    head = json.loads(kept.read_bytes().partition(b"\n")[0])
    # the hash of nothing at all: a form that is whole and of another kind
    head["sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    kept.write_bytes(json.dumps(head).encode() + b"\n")
    caplog.set_level(logging.INFO)
    OpenVinoBackend(master, hint="f32", cache=cache).close()
    assert compiles(caplog) == 1


def test_a_cache_that_cannot_be_written_is_no_error(master: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with OpenVinoBackend(master, cache=tmp_path / "file" / "cache") as backend:
        assert backend.run(images(1)).shape == (1, 6)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_user_without_a_home_has_no_cache(master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None
    with OpenVinoBackend(master) as backend:
        assert backend.run(images(1)).shape == (1, 6)


def test_by_default_the_cache_lies_where_the_system_wants_it(master: Path, tmp_path: Path) -> None:
    OpenVinoBackend(master, hint="f32").close()
    assert len(compiled_files(tmp_path / "home" / "deepir" / "openvino")) == 1


def test_only_the_newest_compiled_forms_are_kept(
    tmp_path: Path, cache: Path, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]
) -> None:
    for seed in range(10):
        path = write_model(tmp_path / f"{seed}.onnx", card=make_card(), seed=seed)
        OpenVinoBackend(path, hint="f32", cache=cache).close()
    assert len(compiled_files(cache)) == 8


def test_nothing_is_printed(master: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with OpenVinoBackend(master, cache=cache) as backend:
            backend.run(images(1))
    assert capfd.readouterr() == ("", "")


def test_the_faster_precision_is_kept_and_not_tried_again(
    master: Path, cache: Path, given_times: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_times["f32"] = 0.5
    with OpenVinoBackend(master, cache=cache) as backend:
        assert backend.precision == "f32"
        assert backend.proof is not None
        assert backend.proof.passed
        assert backend.proof.milliseconds == 0.5
    assert len(compiled_files(cache)) == 1
    monkeypatch.setattr(openvino_hint, "OnnxBackend", None)  # a second trial would need it
    with OpenVinoBackend(master, cache=cache) as backend:
        assert backend.precision == "f32"


def test_the_precision_that_fails_its_proof_is_passed_over_though_it_is_faster(
    master: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_hint, "LIMITS", NEARLY_ONE)
    with OpenVinoBackend(master, cache=cache) as backend:
        assert backend.precision == "f32"
    if len(found := trials(cache)) == 2:  # a processor with bf16
        assert [trial["verdict"]["passed"] for trial in found] == [False, True]
        assert found[0]["precision"] == "bf16"


def trials(cache: Path) -> list[dict[str, Any]]:
    record = kept_record(next(cache.glob("*.json")), "deepir.openvino/1")
    assert record is not None
    found: list[dict[str, Any]] = record["trials"]
    return found


def test_a_file_that_never_passes_is_refused_each_time_and_tried_once(
    master: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_hint, "LIMITS", UNREACHABLE)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with pytest.raises(GateError, match=r"its descriptors differ .*cosine min .*; take ONNX Runtime") as caught:
            OpenVinoBackend(master, cache=cache)
    assert caught.value.exit_code == 6
    assert compiles(caplog) == 2
    assert compiled_files(cache) == []


def test_other_limits_are_another_proof(master: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OpenVinoBackend(master, cache=cache).close()
    monkeypatch.setattr(openvino_hint, "LIMITS", UNREACHABLE)
    with pytest.raises(GateError):
        OpenVinoBackend(master, cache=cache)


def test_the_record_tells_the_verdict_the_time_and_the_versions(master: Path, cache: Path) -> None:
    OpenVinoBackend(master, cache=cache).close()
    record = kept_record(next(cache.glob("*.json")), "deepir.openvino/1")
    assert record is not None
    assert set(record["versions"]) == {"openvino", "onnxruntime"}
    assert record["trials"][0]["milliseconds"] in (1.0, 2.0)
    assert record["trials"][0]["verdict"]["images"] == PROOF_PICTURES
    assert record["trials"][0]["verdict"]["cosine_min"] > 0.99


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("deepir.openvino/1", "deepir.openvino/9"),
        lambda text: text.replace('"trials"', '"other"'),
        lambda text: text.replace('"hint": "auto"', '"hint": "f8"'),
        lambda text: re.sub(r'"milliseconds": [\d.]+', '"milliseconds": "fast"', text),
        lambda text: text.replace('"images": 32', '"pictures": 32'),
        lambda text: text.replace('"images": 32', '"images": "many"'),
    ],
)
def test_a_damaged_record_is_made_again(master: Path, cache: Path, change: Callable[[str], str]) -> None:
    OpenVinoBackend(master, cache=cache).close()
    record = next(cache.glob("*.json"))
    whole = json.loads(record.read_text())
    record.write_text(change(record.read_text()))
    OpenVinoBackend(master, cache=cache).close()
    again = json.loads(record.read_text())
    assert again["trials"] == whole["trials"]


def test_given_pictures_are_topped_up_by_made_up_ones(make_card: Callable[..., ModelCard], pictures: Path) -> None:
    card = make_card()
    given = [read_image(path) for path in sorted(pictures.rglob("*.png"))[:3]]
    arrays = list(proof_inputs(card, given))
    assert len(arrays) == PROOF_PICTURES
    np.testing.assert_array_equal(arrays[1][0], prepare(given[1], card.spec))
    assert len(list(proof_inputs(card, given * 20))) == 60
    assert [one[0].tobytes() for one in proof_inputs(card)] == [one[0].tobytes() for one in proof_inputs(card)]


def test_each_made_up_picture_has_its_scenes_other_view_as_nearest(make_card: Callable[..., ModelCard]) -> None:
    pictures = np.array(made_up_pictures(make_card().spec, 32)).reshape(32, -1).astype(np.float32)
    pictures -= pictures.mean(axis=1, keepdims=True)
    similarity = np.corrcoef(pictures)
    np.fill_diagonal(similarity, -1)
    assert similarity.argmax(axis=1).tolist() == [number ^ 1 for number in range(32)]


def test_a_backend_that_swaps_pictures_fails_its_proof(master: Path, int8: Path, cache: Path) -> None:
    class Swapping:
        def __init__(self, inner: OnnxBackend) -> None:
            self.inner, self.card, self.name, self.last = inner, inner.card, "swapping", images(1)

        def run(self, *arrays: Any) -> Any:
            self.last, given = arrays[0], self.last
            return self.inner.run(given)

    with OnnxBackend(master, "cpu") as reference, OpenVinoBackend(int8, hint="f32", cache=cache) as backend:
        inputs = list(proof_inputs(reference.card))
        loose = GateLimits(cosine_min=0.9, cosine_mean=0.95, agreement=0)
        assert prove_backend(backend, reference, inputs, loose).passed
        swapping: Any = Swapping(reference)
        assert not prove_backend(swapping, reference, inputs, GateLimits()).passed
        with pytest.raises(ShapeError):
            prove_backend(backend, reference, [], GateLimits())


SIGNALLED = """
import gc, os, signal, sys, threading
from pathlib import Path
from deepir.runtime.intel_cpu import OpenVinoBackend

heard = []
signal.signal(signal.SIGHUP, lambda *_: heard.append(1))
first = [OpenVinoBackend(Path(sys.argv[1]), hint="f32")]

def replace():
    second = OpenVinoBackend(Path(sys.argv[1]), hint="f32")
    first.pop().close()
    gc.collect()
    del second

thread = threading.Thread(target=replace)
thread.start()
thread.join()
gc.collect()
os.kill(os.getpid(), signal.SIGHUP)
print(len(heard))
"""


def test_a_model_that_is_replaced_in_another_thread_leaves_the_signals_of_this_one_alone(model: Path) -> None:
    words = [sys.executable, "-c", SIGNALLED, str(model)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
