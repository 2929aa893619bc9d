"""Checkpoints come back whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.errors import ModelError, OptionError

MakeModel = Callable[..., Model]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_model(new_model(build_trunk("timm:resnet10t"), sizes=((64, 64),)), path)
    return path


def test_a_checkpoint_comes_back_as_it_was(checkpoint: Path) -> None:
    first = load_model(checkpoint)
    images = torch.rand(2, 3, 64, 64)
    again = load_model(checkpoint)
    assert again.spec == first.spec
    torch.testing.assert_close(again.network.eval()(images), first.network.eval()(images), rtol=0, atol=0)


def test_another_weight_gives_another_fingerprint(make_model: MakeModel) -> None:
    model = make_model(dim=5)
    before = model.spec.fingerprint
    with torch.no_grad():
        model.network.whitening.bias[0] += 1e-3
    assert model.sealed().spec.fingerprint != before


def test_a_checkpoint_of_a_module_given_in_code_needs_that_module(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(dim=5)
    save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(OptionError, match="custom:tiny"):
        load_model(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors", make_model(seed=1).network.trunk).spec == model.spec


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_a_truncated_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"cut\.safetensors"):
        load_model(tmp_path / "cut.safetensors")


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="absent"):
        load_model(tmp_path / "absent.safetensors")


def test_a_file_without_description_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ModelError, match="not a deepir checkpoint"):
        load_model(tmp_path / "plain.safetensors")


@pytest.mark.parametrize(("value", "sentence"), [(float("nan"), "NaN or infinity"), (0.5, "altered")])
def test_a_checkpoint_with_other_weights_is_refused(
    checkpoint: Path, tmp_path: Path, value: float, sentence: str
) -> None:
    state = load_file(checkpoint)
    key = next(name for name in state if name.endswith("conv1.weight"))
    state[key].view(-1)[0] = value
    from safetensors import safe_open

    with safe_open(checkpoint, framework="pt") as stream:
        metadata = stream.metadata()
    save_file(state, tmp_path / "changed.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match=sentence):
        load_model(tmp_path / "changed.safetensors")
