"""The proof after an export, for every form of the file: it passes for the right one and fails for any other."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from deepir.calib.onnx_file import open_session
from deepir.calib.precision import to_fp16
from deepir.distill.backbone import wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.errors import GateError, InputError
from deepir.export import verify
from deepir.export.graph import build_onnx
from deepir.export.verify import FP16_TOLERANCE, FP32_TOLERANCE, prove, prove_against
from deepir.image import list_images

MakeModel = Callable[..., Model]
FORMS = {
    "one size": ({}, {}),
    "two resolutions": ({"sizes": ((64, 64), (96, 64))}, {"pixels": "uint8"}),
    "nearest": ({"sizes": ((64, 64), (96, 64)), "resize": "nearest"}, {}),
    "longest": ({"resize": "longest", "sizes": ((96, 96),)}, {}),
}


@pytest.fixture(scope="module")
def models(make_model: MakeModel) -> dict[str, Model]:
    model = make_model(dim=6)
    return {form: Model(model.network, dataclasses.replace(model.spec, **spec)) for form, (spec, _) in FORMS.items()}


@pytest.fixture(scope="module")
def protos(models: dict[str, Model]) -> dict[str, onnx.ModelProto]:
    return {form: build_onnx(models[form], **options) for form, (_, options) in FORMS.items()}


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


@pytest.mark.parametrize("form", FORMS)
def test_the_proof_passes_with_patterns_and_with_pictures(
    models: dict[str, Model], protos: dict[str, onnx.ModelProto], pictures: Path, form: str
) -> None:
    assert "8 made-up pictures" in str(prove(protos[form], models[form], [], FP32_TOLERANCE))
    assert "32 pictures" in str(prove(protos[form], models[form], list_images(pictures), FP32_TOLERANCE))
    proof = prove_against(to_fp16(protos[form]), protos[form], list_images(pictures)[:3], FP16_TOLERANCE)
    assert "on 3 pictures" in str(proof)
    assert proof.least_cosine > 0.999


class Padded(nn.Module):
    """Pads by itself, as networks that came from TensorFlow do: more to the right and below."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, 4)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        map_nchw = self.convolution(images_nchw).relu()
        return functional.max_pool2d(functional.pad(map_nchw, (0, 1, 0, 1)), 3, 2)


def test_a_trunk_that_pads_by_itself_is_exported() -> None:
    torch.manual_seed(0)
    model = new_model(wrap_module("padded", Padded()), sizes=((64, 64),)).sealed()
    proto = build_onnx(model)
    assert "Pad" in {node.op_type for node in proto.graph.node}
    assert prove(proto, model, [], FP32_TOLERANCE).least_cosine > 0.99999


@pytest.mark.parametrize("form", FORMS)
def test_the_proof_fails_for_another_whitening(
    models: dict[str, Model], protos: dict[str, onnx.ModelProto], form: str
) -> None:
    other = copy_of(protos[form])
    weight = next(tensor for tensor in other.graph.initializer if tensor.name == "whitening.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05) + 0.01, weight.name))
    with pytest.raises(GateError, match="not the same function"):
        prove(other, models[form], [], FP32_TOLERANCE)
    with pytest.raises(GateError, match="not the same function"):
        prove_against(other, protos[form], [], FP32_TOLERANCE)


def test_the_proof_fails_where_pictures_of_a_batch_meet(protos: dict[str, onnx.ModelProto]) -> None:
    mixed = copy_of(protos["one size"])
    last = mixed.graph.node[-1]
    last.output[0] = "apart"
    mean = helper.make_node("ReduceMean", ["apart"], ["mean"], name="mean", axes=[0], keepdims=1)
    mixed.graph.node.extend([mean, helper.make_node("Sub", ["apart", "mean"], ["descriptors"], name="mixed")])
    # against itself only the pictures one by one can differ
    with pytest.raises(GateError, match=r"batch against single [1-9]"):
        prove_against(mixed, mixed, [], dataclasses.replace(FP32_TOLERANCE, least_cosine=-1.0))


def test_the_proof_fails_where_the_inlined_form_is_another_function(
    protos: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy_of(protos["one size"])
    bias = next(tensor for tensor in other.graph.initializer if tensor.name == "whitening.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    monkeypatch.setattr("onnx.inliner.inline_local_functions", lambda _: other)
    with pytest.raises(GateError, match=r"without its functions [1-9]"):
        prove_against(protos["one size"], protos["one size"], [], FP32_TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
def test_the_proof_fails_for_nan(models: dict[str, Model], protos: dict[str, onnx.ModelProto], form: str) -> None:
    damaged = copy_of(protos[form])
    bias = next(tensor for tensor in damaged.graph.initializer if tensor.name == "whitening.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(6, np.nan, np.float32), bias.name))
    with pytest.raises(GateError):
        prove(damaged, models[form], [], FP32_TOLERANCE)


def test_a_file_of_free_size_is_proven_at_several_sizes(
    models: dict[str, Model], protos: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for form in ("nearest", "longest"):
        seen = shapes.setdefault(form, set())

        class Watched:
            def __init__(self, proto: onnx.ModelProto, seen: set[tuple[int, ...]] = seen) -> None:
                self.session, self.seen = open_session(proto), seen

            def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
                self.seen.add(feeds["images"].shape[2:])
                return self.session.run(names, feeds)

        monkeypatch.setattr(verify, "open_session", Watched)
        prove(protos[form], models[form], [], FP32_TOLERANCE)
    assert shapes["nearest"] == {(64, 64), (96, 64)}
    assert len(shapes["longest"]) >= 3


def test_a_missing_picture_is_named(
    models: dict[str, Model], protos: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        prove(protos["one size"], models["one size"], [tmp_path / "gone.png"], FP32_TOLERANCE)
