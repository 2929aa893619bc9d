"""Why OpenVINO does not run a file, and in which words those hear it who need no advice."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from deepir.card import GateVerdict, ModelCard
from deepir.errors import EngineError, GateError
from deepir.gate import GateLimits
from deepir.runtime import choice_probe, openvino_hint, openvino_refusal
from deepir.runtime.choice import decide
from deepir.runtime.choice_probe import Probe
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.openvino_refusal import NotProvenError, NotRunError, other_descriptors
from deepir.runtime.openvino_vnni import NO_VNNI
from deepir.spec import Numerics

FAILED = GateVerdict(passed=False, cosine_min=0.3545, cosine_mean=0.7228, agreement=0.5625, images=32)


@pytest.mark.parametrize(
    ("numerics", "lacks", "told"),
    [(Numerics.INT8, True, True), (Numerics.INT8, False, False), (Numerics.FP32, True, False)],
)
def test_the_processor_is_blamed_only_for_int8_without_vnni(
    numerics: Numerics, lacks: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_refusal, "lacks_vnni", lambda: lacks)
    words = other_descriptors(FAILED, numerics)
    assert "cosine min 0.3545 mean 0.7228, same neighbour 56%" in words
    assert ("no VNNI" in words) is told


def test_a_refusal_is_an_error_of_its_kind_and_its_reason_names_neither_file_nor_cure() -> None:
    compiled, proven = (kind(Path("x/model.onnx"), "too odd") for kind in (NotRunError, NotProvenError))
    assert (isinstance(compiled, EngineError), compiled.exit_code) == (True, 5)
    assert (isinstance(proven, GateError), proven.exit_code) == (True, 6)
    assert str(proven) == "OpenVINO does not run x/model.onnx: too odd; take ONNX Runtime for it"
    assert (compiled.reason, proven.reason) == ("too odd", "too odd")


def test_auto_is_told_the_reason_alone(
    tmp_path: Path,
    write_model: Callable[..., Path],
    make_card: Callable[..., ModelCard],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino_hint, "LIMITS", GateLimits(cosine_min=2.0))
    monkeypatch.setattr(openvino_refusal, "lacks_vnni", lambda: True)
    path = write_model(tmp_path / "shop.onnx", card=dataclasses.replace(make_card(), numerics=Numerics.INT8))
    with pytest.raises(NotProvenError, match=r"shop\.onnx"):
        OpenVinoBackend(path)
    choice_probe.main([str(path), "openvino", "1"])
    note = capsys.readouterr().out.partition('"note": "')[2].partition('"}')[0]
    assert note.startswith("its descriptors differ from ONNX Runtime's, cosine min ")
    assert note.endswith(f"({NO_VNNI})")
    _, why = decide({"onnxruntime": Probe(9.0), "openvino": Probe(None, note)}, "2026-11-30")
    assert "shop" not in why
    assert "--backend" not in why
