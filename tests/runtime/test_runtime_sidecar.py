"""The sidecar of an engine: written, read back the same, and refused when damaged or foreign."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.card import GateVerdict, ModelCard
from deepir.errors import EngineError, ModelError
from deepir.runtime.sidecar import EngineRecord, GpuInfo, PrecisionCount, read_record, sidecar_path, write_record
from deepir.spec import ModelSpec, Numerics

SPEC = ModelSpec(
    backbone="timm:resnet18",
    sizes=((384, 512),),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    stride=32,
    channels=512,
    dim=256,
)
RECORD = EngineRecord(
    card=ModelCard(SPEC, Numerics.INT8),
    engine_sha256="ab" * 32,
    engine_bytes=12_345_678,
    onnx_file="shop.int8.onnx",
    onnx_sha256="cd" * 32,
    calibration_sha256=None,
    flavour="tensorrt",
    tensorrt_version="10.3.0",
    cuda_version="12.6",
    portable="none",
    gpu=GpuInfo("Orin", "8.7", 7620),
    compute_capabilities=(),
    precision=PrecisionCount(20, 20, 0, 0),
    plugin="native",
    batch=(1, 4, 8),
    shapes=((384, 512),),
    gate=GateVerdict(passed=True, cosine_min=0.99, cosine_mean=0.995, agreement=1.0, images=32),
    not_run="",
    build_seconds=212.5,
    peak_mib=3100.0,
    built_at="2026-11-21T09:30:00+00:00",
    command=("deepir-export", "shop.onnx", "--int8"),
    host={"os": "Linux 5.15", "arch": "aarch64", "jetpack": "R36.4"},
)

texts = st.text(max_size=20)
records = st.builds(
    dataclasses.replace,
    st.just(RECORD),
    engine_bytes=st.integers(0, 1 << 40),
    onnx_file=st.from_regex(r"[a-zA-Z0-9 ._-]{1,20}\.onnx", fullmatch=True),
    calibration_sha256=st.none() | texts,
    cuda_version=st.none() | texts,
    portable=st.sampled_from(["none", "version", "arch", "both"]),
    gpu=st.none() | st.builds(GpuInfo, texts, texts, st.integers(0, 1 << 20)),
    compute_capabilities=st.lists(texts).map(tuple),
    precision=st.builds(PrecisionCount, *[st.integers(0, 1000)] * 4),
    shapes=st.lists(st.tuples(st.integers(1, 9999), st.integers(1, 9999)), min_size=1, max_size=3).map(tuple),
    build_seconds=st.floats(0, 1e6),
    peak_mib=st.none() | st.floats(0, 1e6),
    command=st.lists(texts).map(tuple),
    host=st.dictionaries(texts, texts, max_size=3),
)


@given(records)
def test_what_was_written_is_read_back(record: EngineRecord) -> None:
    assert EngineRecord.from_json(record.to_json()) == record


def test_the_file_lies_beside_the_engine_under_its_whole_name(tmp_path: Path) -> None:
    engine = tmp_path / "shop.int8.trt10.3-sm87.engine"
    write_record(engine, RECORD)
    assert sidecar_path(engine) == tmp_path / "shop.int8.trt10.3-sm87.engine.json"
    assert [path.name for path in tmp_path.iterdir()] == ["shop.int8.trt10.3-sm87.engine.json"]
    assert read_record(engine) == RECORD


def test_the_json_says_what_other_programs_ask_for() -> None:
    fields = json.loads(RECORD.to_json())
    assert fields["schema"] == "deepir.engine/1"
    assert fields["io"] == {"inputs": ["images"], "output": "descriptors", "dim": 256}
    assert fields["card"]["fingerprint"] == SPEC.fingerprint
    assert fields["gpu"] == {"name": "Orin", "compute_capability": "8.7", "memory_mib": 7620}
    assert fields["precision"] == {"convolutions": 20, "int8": 20, "fp16": 0, "fp32": 0}


def test_an_engine_without_a_sidecar_is_an_engine_error_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"shop\.engine\.json.*deepir-export") as caught:
        read_record(tmp_path / "shop.engine")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"12", b'{"schema": "deepir.engine/2"}', b"[" * 100_000]
)
def test_a_sidecar_that_is_damaged_or_of_another_schema_is_refused(tmp_path: Path, content: bytes) -> None:
    sidecar_path(tmp_path / "a.engine").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.engine\.json.*build the engine again"):
        read_record(tmp_path / "a.engine")


def test_a_sidecar_that_is_no_text_or_a_folder_is_refused(tmp_path: Path) -> None:
    sidecar_path(tmp_path / "a.engine").write_bytes(b"\xff\xfe\x00")
    sidecar_path(tmp_path / "b.engine").mkdir()
    for name in ("a.engine", "b.engine"):
        with pytest.raises(EngineError, match="cannot read"):
            read_record(tmp_path / name)


def test_a_stored_description_is_read_and_written_the_same() -> None:
    """The format that other programs read: change it only with its schema."""
    text = (Path(__file__).parents[1] / "data" / "engine.json").read_text()
    assert EngineRecord.from_json(text).to_json() == text


@pytest.mark.parametrize("field", sorted(json.loads(RECORD.to_json()).keys() - {"io"}))
def test_a_missing_field_is_refused(field: str) -> None:
    fields = json.loads(RECORD.to_json())
    del fields[field]
    with pytest.raises(ModelError, match=field):
        EngineRecord.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine_sha256", "AB" * 32),
        ("engine_sha256", None),
        ("engine_bytes", -1),
        ("engine_bytes", True),
        ("onnx_file", "../../etc/passwd"),
        ("onnx_file", ""),
        ("onnx_file", ".."),
        ("flavour", "openvino"),
        ("portable", "all"),
        ("plugin", "plugin.so"),
        ("batch", [1, 2]),
        ("batch", [4, 2, 8]),
        ("batch", [0, 1, 1]),
        ("batch", "148"),
        ("shapes", []),
        ("shapes", [[0, 64]]),
        ("shapes", [[64]]),
        ("precision", {"convolutions": 1}),
        ("gpu", {"name": 3, "compute_capability": "8.7", "memory_mib": 1}),
        ("gate", {"passed": True}),
        ("gate", None),
        ("not_run", "no GPU"),
        ("build_seconds", "fast"),
        ("build_seconds", float("nan")),
        ("host", ["Linux"]),
        ("card", {}),
    ],
)
def test_a_value_that_cannot_be_is_refused(field: str, value: Any) -> None:
    fields = {**json.loads(RECORD.to_json()), field: value}
    with pytest.raises(ModelError, match="build the engine again"):
        EngineRecord.from_json(json.dumps(fields))
