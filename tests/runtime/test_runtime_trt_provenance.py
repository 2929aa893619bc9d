"""Which engines may be loaded on which machine, and what is said of the others."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from deepir.errors import EngineError, ModelError
from deepir.runtime.sidecar import EngineRecord, GpuInfo
from deepir.runtime.trt_provenance import Machine, library_name, stale_reasons, trusted_plan

ORIN = GpuInfo("Orin", "8.7", 7620)
PLAN = b"a plan"
RECORD = EngineRecord.from_json((Path(__file__).parents[1] / "data" / "engine.json").read_text())
MACHINE = Machine("10.3.0", ORIN, "aarch64")
RTX = {"flavour": "rtx", "tensorrt_version": "1.7.1.116", "gpu": None, "compute_capabilities": ("8.6", "12.0")}


def reasons(record: dict[str, Any], **machine: Any) -> list[str]:
    gpu = GpuInfo(machine.pop("name", "Orin"), machine.pop("capability", "8.7"), 7620)
    here = dataclasses.replace(MACHINE, gpu=gpu, **machine)
    return stale_reasons(dataclasses.replace(RECORD, **record), here)


@pytest.mark.parametrize(
    ("record", "machine"),
    [
        ({}, {}),
        ({"host": {}}, {"arch": "x86_64"}),
        ({"portable": "version"}, {"tensorrt_version": "10.16.2"}),
        ({"portable": "both"}, {"tensorrt_version": "11.4.1", "capability": "11.0"}),
        ({"portable": "version", "tensorrt_version": "8.6.2"}, {"tensorrt_version": "10.3.0"}),
        ({"portable": "arch"}, {"capability": "8.0"}),
        (RTX, {"tensorrt_version": "1.7.1.116", "capability": "12.0"}),
        ({**RTX, "portable": "arch"}, {"tensorrt_version": "1.7.1.116", "capability": "8.9"}),
    ],
)
def test_an_engine_that_fits_has_no_reason_against_it(record: dict[str, Any], machine: dict[str, Any]) -> None:
    assert reasons(record, **machine) == []


@pytest.mark.parametrize(
    ("record", "machine", "sentence"),
    [
        ({}, {"tensorrt_version": "10.3.1"}, "built with TensorRT 10.3.0, this machine has 10.3.1"),
        ({"portable": "arch"}, {"tensorrt_version": "10.16.2"}, "built with TensorRT 10.3.0, this machine has 10.16.2"),
        ({"portable": "version"}, {"tensorrt_version": "10.2.0"}, "this machine has 10.2.0"),
        ({"portable": "version", "tensorrt_version": "8.6.2"}, {"tensorrt_version": "11.4.1"}, "has 11.4.1"),
        ({"portable": "version"}, {"tensorrt_version": "unknown"}, "this machine has unknown"),
        (
            {},
            {"capability": "11.0", "name": "Thor"},
            "built for Orin, compute capability 8.7, this machine has Thor, 11.0",
        ),
        ({"portable": "version"}, {"capability": "8.6"}, "this machine has Orin, 8.6"),
        ({"portable": "arch"}, {"capability": "7.5", "name": "T4"}, "this machine has T4, 7.5"),
        ({"portable": "arch", "gpu": GpuInfo("T4", "7.5", 1)}, {}, "compute capability 7.5"),
        (
            RTX,
            {"tensorrt_version": "1.7.1.116", "name": "RTX 4090", "capability": "8.9"},
            "built for compute capability 8.6 and 12.0, this machine has RTX 4090, 8.9",
        ),
        (RTX, {"tensorrt_version": "1.8.0", "capability": "8.6"}, "built with TensorRT-RTX 1.7.1.116"),
        ({}, {"arch": "x86_64"}, "built on aarch64, this machine is x86_64"),
    ],
)
def test_an_engine_that_does_not_fit_is_told_with_both_values(
    record: dict[str, Any], machine: dict[str, Any], sentence: str
) -> None:
    found = reasons(record, **machine)
    assert len(found) == 1
    assert sentence in found[0]


def test_several_reasons_are_all_told() -> None:
    assert len(reasons({}, tensorrt_version="11.4.1", capability="11.0", arch="x86_64")) == 3


def test_the_same_capability_on_another_board_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert reasons({}, name="Orin NX") == []
    assert "built on Orin and runs on Orin NX" in caplog.text


def test_a_library_has_the_name_that_people_know() -> None:
    assert [library_name(flavour) for flavour in ("tensorrt", "rtx")] == ["TensorRT", "TensorRT-RTX"]


def test_the_plan_of_the_sidecar_is_given(tmp_path: Path) -> None:
    engine = tmp_path / "shop.engine"
    engine.write_bytes(PLAN)
    assert trusted_plan(engine, RECORD, "hint") == PLAN


@pytest.mark.parametrize("content", [b"", b"a pla", b"A plan", b"a plan and more"])
def test_another_plan_is_refused_with_the_command(tmp_path: Path, content: bytes) -> None:
    engine = tmp_path / "shop.engine"
    engine.write_bytes(content)
    sentence = rf"\({len(content)} bytes, SHA-256 .*shop\.engine\.json was written for \(6 bytes.*with: the command"
    with pytest.raises(EngineError, match=sentence) as caught:
        trusted_plan(engine, RECORD, "the command")
    assert caught.value.exit_code == 5
    assert trusted_plan(engine, RECORD, "the command", trust=True) == content


@pytest.mark.parametrize("folder", [False, True])
def test_what_cannot_be_read_is_named(tmp_path: Path, folder: bool) -> None:
    engine = tmp_path / "shop.engine"
    if folder:
        engine.mkdir()
    with pytest.raises(ModelError, match=r"cannot read .*shop\.engine"):
        trusted_plan(engine, RECORD, "hint", trust=True)
