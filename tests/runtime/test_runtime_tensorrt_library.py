"""TensorRT's module is imported in one place, which says what is missing and keeps what it says."""

import sys
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest

from deepir.errors import MissingDependency
from deepir.runtime import tensorrt_library
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt, make_logger, tensorrt_version


class Severity(Enum):
    """The names that TensorRT uses."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class FakeLogger:
    """What the module's ILogger is to a logger of ours: a base that wants its initialiser called."""

    def __init__(self) -> None:
        self.initialised = True


def fake_tensorrt(version: str = "10.3.0") -> ModuleType:
    module = ModuleType("fake")
    module.__version__ = version
    module.ILogger = FakeLogger
    return module


def without_module(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # None in sys.modules makes the import fail as that of a module which is not installed
    monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("flavour", "module", "extra"),
    [(Flavour.TENSORRT, "tensorrt", "gpu"), (Flavour.RTX, "tensorrt_rtx_bindings", "rtx")],
)
def test_a_missing_module_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flavour: Flavour, module: str, extra: str
) -> None:
    without_module(monkeypatch, module)
    monkeypatch.setattr(tensorrt_library, "_SYSTEM_PYTHONS", tmp_path)
    with pytest.raises(MissingDependency, match=rf"{module}.*pip install 'deepir\[{extra}\]'"):
        load_tensorrt(flavour)


def test_the_one_that_jetpack_installed_is_found_for_the_person(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_module(monkeypatch, "tensorrt")
    for python in ("python3", "python3.10"):
        (tmp_path / python / "dist-packages" / "tensorrt").mkdir(parents=True)
    monkeypatch.setattr(tensorrt_library, "_SYSTEM_PYTHONS", tmp_path)
    with pytest.raises(MissingDependency, match=r"python3\.10 of the system.*python3\.10 -m venv --system-site-pack"):
        load_tensorrt(Flavour.TENSORRT)


def test_a_module_whose_libraries_are_missing_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("import ctypes\nctypes.CDLL('libnvdla_compiler.so')\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match=r"libnvdla_compiler\.so"):
        load_tensorrt(Flavour.TENSORRT)


def test_the_module_is_given_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_tensorrt("10.16.1.11")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert load_tensorrt(Flavour.TENSORRT) is module
    assert tensorrt_version(module) == "10.16.1.11"


def test_a_logger_keeps_lines_and_gives_the_errors() -> None:
    log = make_logger(fake_tensorrt())
    assert log.initialised
    for severity in Severity:
        log.log(severity, f"a {severity.name}")
    assert log.lines == [(name, f"a {name}") for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")]
    assert log.errors() == ["a INTERNAL_ERROR", "a ERROR"]


def test_a_logger_keeps_only_so_many_lines_unless_verbose() -> None:
    heard: list[str] = []
    short = make_logger(fake_tensorrt(), listener=lambda _severity, message: heard.append(message))
    verbose = make_logger(fake_tensorrt(), verbose=True)
    for number in range(2500):
        short.log(Severity.INFO, str(number))
        verbose.log(Severity.VERBOSE, str(number))
    assert (len(short.lines), short.lines[-1]) == (2000, ("INFO", "2499"))
    assert len(verbose.lines) == len(heard) == 2500


@pytest.mark.rtx
def test_the_real_library_takes_the_logger_and_speaks_through_it() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
    trt = load_tensorrt(Flavour.RTX)
    log = make_logger(trt, verbose=True)
    network = trt.Builder(log).create_network(0)
    assert not trt.OnnxParser(network, log).parse(b"not ONNX")
    assert any("parse" in message.lower() for message in log.errors())
    assert tensorrt_version(trt).count(".") >= 2
