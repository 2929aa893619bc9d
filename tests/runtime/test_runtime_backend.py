"""Loading and running model files, the bad ones too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from deepir.card import ModelCard
from deepir.errors import EngineError, MissingDependency, ModelError, OptionError, ShapeError
from deepir.runtime.backend import BackendOptions, open_backend

SIDE = 32


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(3).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_model_gives_a_descriptor_of_length_one_for_each_image(model: Path, count: int) -> None:
    with open_backend(model, BackendOptions(device="cpu", threads=1)).backend as backend:
        descriptors_nd = backend.run(images(count))
    assert descriptors_nd.shape == (count, 8)
    np.testing.assert_allclose(np.linalg.norm(descriptors_nd, axis=1), 1, atol=1e-5)


def test_the_card_and_the_real_device_are_known(model: Path, make_card: Callable[..., ModelCard]) -> None:
    with open_backend(model, BackendOptions(device="cpu")).backend as backend:
        assert backend.card == make_card()
        assert backend.name == "ONNX Runtime, CPU"


def test_cuda_that_does_not_load_is_said_and_not_replaced(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a machine where CUDA was compiled in but does not load: the session quietly has the CPU alone
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *words, **options: real(*words, **{**options, "providers": ["CPUExecutionProvider"]}),
    )
    with pytest.raises(MissingDependency, match=r"--device cuda.*deepir\[gpu\]") as caught:
        open_backend(model, BackendOptions(device="cuda"))
    assert caught.value.exit_code == 4
    with open_backend(model).backend as backend:
        assert backend.name == "ONNX Runtime, CPU"


def test_an_automatic_choice_survives_a_cuda_that_raises(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession

    def session(*words: Any, **options: Any) -> Any:
        if "CUDAExecutionProvider" in options["providers"]:
            message = "libcudart.so.12: cannot open shared object file"
            raise RuntimeError(message)
        return real(*words, **options)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with open_backend(model).backend as backend:
        assert backend.name == "ONNX Runtime, CPU"
    with pytest.raises(MissingDependency):
        open_backend(model, BackendOptions(device="cuda"))


@pytest.mark.parametrize("kept", [0, 1, 100, 800])
def test_a_truncated_model_is_one_sentence_and_nothing_else(
    model: Path, kept: int, capfd: pytest.CaptureFixture[str]
) -> None:
    model.write_bytes(model.read_bytes()[:kept])
    with pytest.raises(ModelError, match=rf"\({kept} bytes\) is truncated or not an ONNX model") as caught:
        open_backend(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such model: .*nothing\.onnx"):
        open_backend(tmp_path / "nothing.onnx")


def test_an_onnx_file_of_somebody_else_is_sent_to_deepir_export(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=r"without a deepir card: write it with deepir-export"):
        open_backend(write_model(tmp_path / "foreign.onnx", card=None))


@pytest.mark.parametrize("suffix", [".engine", ".plan"])
def test_an_engine_of_unknown_origin_is_not_run(tmp_path: Path, suffix: str) -> None:
    engine = tmp_path / f"model{suffix}"
    engine.write_bytes(b"plan")
    with pytest.raises(EngineError, match="an engine is code: build it here with deepir-export") as caught:
        open_backend(engine)
    assert caught.value.exit_code == 5


def test_what_a_file_runs_in_when_nothing_is_said_can_be_set(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPIR_BACKEND", "openvino")
    with open_backend(model).backend as backend:
        assert backend.name.startswith("OpenVINO, CPU")
    monkeypatch.setenv("DEEPIR_BACKEND", "onnx")
    with pytest.raises(OptionError, match=r"DEEPIR_BACKEND must be one of auto, .*, got 'onnx'"):
        open_backend(model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "gpu"}, "the device must be one of auto, cpu, cuda, got 'gpu'"),
        ({"backend": "onnx"}, "the backend must be one of auto, .*, got 'onnx'"),
        ({"threads": -1}, "the number of threads must be 0 or more, got -1"),
    ],
)
def test_options_that_cannot_be_are_named_as_a_program_names_them(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=f"^{sentence}$"):
        BackendOptions(**options)


def test_what_is_asked_for_runs_and_says_so(model: Path) -> None:
    opened = open_backend(model, BackendOptions(backend="openvino"))
    with opened.backend as backend:
        assert (backend.name.partition(",")[0], opened.why) == ("OpenVINO", "OpenVINO: asked for")


@pytest.mark.parametrize("options", [{"device": "gpu"}, {"backend": "torch"}, {"rebuild": "yes"}, {"threads": -1}])
def test_options_that_cannot_be_are_refused_with_the_value(options: dict) -> None:
    with pytest.raises(OptionError, match=f"got '?{next(iter(options.values()))}"):
        BackendOptions(**options)


def test_another_suffix_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\.onnx"):
        open_backend(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_damaged_weights_are_said_instead_of_nan_given(
    tmp_path: Path, factor: float, write_model: Callable[..., Path], make_card: Callable[..., ModelCard]
) -> None:
    path = write_model(tmp_path / "nan.onnx", card=make_card(), factor=factor)
    with (
        open_backend(path).backend as backend,
        pytest.raises(ModelError, match=r"gives NaN or infinity.*export it again"),
    ):
        backend.run(images(1))


def test_images_of_another_size_are_refused_with_both_sizes(model: Path) -> None:
    with open_backend(model).backend as backend, pytest.raises(ShapeError, match=r"3, 32, 32.*\(1, 3, 16, 16\)"):
        backend.run(np.zeros((1, 3, 16, 16), dtype=np.float32))


def test_a_closed_model_says_so(model: Path) -> None:
    backend = open_backend(model).backend
    backend.close()
    with pytest.raises(EngineError, match="was closed"):
        backend.run(images(1))
