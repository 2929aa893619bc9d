"""State dicts of torchvision and timm, checkpoints of our own, and the command that imports them all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from deepir.distill import importing, model_cli
from deepir.distill.checkpoint import Model, load_model, save_model
from deepir.distill.import_plan import ImportOptions
from deepir.distill.importing import import_model
from deepir.errors import ModelError, OptionError

DATA = Path(__file__).parents[1] / "data"
MakeModel = Callable[..., Model]
TIMM = "mobilenetv4_conv_small_050"


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("plain") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def deepir_distill(*words: object) -> Result:
    group = click.Group(commands=[model_cli.import_weights, model_cli.inspect_weights])
    return CliRunner().invoke(group, [str(word) for word in words])


def test_a_state_dict_of_torchvision_becomes_a_model(resnet18: Path) -> None:
    model, report = import_model(resnet18, ImportOptions(trunk="torchvision:resnet18", size="96", levels=1))
    assert (report.kind, report.left) == ("torchvision", ("fc.weight", "fc.bias"))
    assert (model.spec.sizes, model.spec.dim, model.spec.head.levels) == (((96, 96),), 512, 1)
    state = torch.load(resnet18, weights_only=True)
    ours = model.network.trunk.state_dict()
    assert len(report.mapped) == len(ours)
    assert all(torch.equal(value, state[name]) for name, value in ours.items())


@pytest.mark.parametrize("wrapped", ["state_dict", "model", None])
def test_a_state_dict_of_timm_becomes_a_model(wrapped: str | None, tmp_path: Path) -> None:
    state = timm.create_model(TIMM).state_dict()
    path = tmp_path / ("m.safetensors" if wrapped is None else "m.pth")
    if wrapped is None:
        save_file(state, path)
    else:
        torch.save({wrapped: {f"module.{name}": value for name, value in state.items()}}, path)
    model, report = import_model(path, ImportOptions(trunk=TIMM), kind="timm")
    assert (report.kind, model.spec.backbone) == ("timm", f"timm:{TIMM}")
    assert any(name.startswith("classifier") for name in report.left)


@pytest.mark.parametrize(
    ("trunk", "kind", "sentence"),
    [
        (None, "auto", "name it with --trunk"),
        ("resnet18", "auto", "got 'resnet18'"),
        ("timm:resnet18", "torchvision", "got 'timm:resnet18'"),
        ("torchvision:resnet18", "caffe", "--kind caffe does not fit"),
        ("torchvision:resnet18", "safetensors", "--kind safetensors does not fit"),
        ("torchvision:nonsense", "auto", "nonsense"),
    ],
)
def test_a_network_must_be_named_rightly(trunk: str | None, kind: str, sentence: str, resnet18: Path) -> None:
    with pytest.raises(OptionError, match=sentence):
        import_model(resnet18, ImportOptions(trunk=trunk), kind)


def test_a_safetensors_that_begins_like_a_pickle_is_one(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for length in range(300):
        save_file({"a" * (length + 1): torch.zeros(1)}, path)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert importing.file_kind(path) == "safetensors"


def test_a_checkpoint_of_our_own_is_copied_and_validated(tmp_path: Path) -> None:
    trunk = ImportOptions(trunk=f"timm:{TIMM}", size="64x96")
    save_file(timm.create_model(TIMM).state_dict(), tmp_path / "plain.safetensors")
    model, _ = import_model(tmp_path / "plain.safetensors", trunk)
    save_model(model, tmp_path / "ours.safetensors")
    copied, report = import_model(tmp_path / "ours.safetensors")
    assert (report.kind, copied.spec) == ("deepir", model.spec)
    with pytest.raises(OptionError, match="--size means nothing for a deepir file"):
        import_model(tmp_path / "ours.safetensors", ImportOptions(size="64"))
    content = bytearray((tmp_path / "ours.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "ours.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="altered"):
        import_model(tmp_path / "ours.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.bin", b"hello world", "is neither a .caffemodel"),
        ("m.bin", b"", "is neither a .caffemodel"),
        ("m.caffemodel", b"", "it is empty"),
        ("m.safetensors", b"\x00" * 20, "cannot read weights"),
        ("m.safetensors", b"\xff" * 20, "cannot read weights"),
        ("m.pth", b"\x80\x02}q\x00.", "truncated, damaged"),
        ("m.pth", b"\x80\x04\x95", "truncated, damaged"),
    ],
)
def test_other_files_get_one_sentence_and_nothing_is_written(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    result = deepir_distill("import", tmp_path / name, "-o", tmp_path / "out.safetensors", "--trunk", "timm:resnet18")
    if name == "m.caffemodel":
        result = deepir_distill("import", tmp_path / name, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 3, result.output
    assert result.output.startswith("error: ")
    assert sentence in result.output
    assert result.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("content", [["a", "list"], {"epoch": 3}, {"state_dict": 5}, {"meta": 3, "state_dict": {}}])
def test_a_torch_file_without_weights_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pth")
    words = ["--trunk", "timm:resnet18"] if "meta" not in content else []
    result = deepir_distill("import", tmp_path / "m.pth", "-o", tmp_path / "out.safetensors", *words)
    assert (result.exit_code, result.output.count("\n")) == (3, 1), result.output
    assert "m.pth: it holds" in result.output


def test_nan_in_a_trunk_is_refused(resnet18: Path, tmp_path: Path) -> None:
    state = torch.load(resnet18, weights_only=True)
    state["layer1.0.bn1.running_var"][3] = float("nan")
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"NaN or infinity in layer1\.0\.bn1\.running_var"):
        import_model(tmp_path / "m.pth", ImportOptions(trunk="torchvision:resnet18"))
    state["layer1.0.bn1.running_var"][3] = -1
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"negative variance in layer1\.0\.bn1\.running_var"):
        import_model(tmp_path / "m.pth", ImportOptions(trunk="torchvision:resnet18"))


def test_the_command_writes_a_model_and_says_what_it_took(resnet18: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    words = ["--trunk", "torchvision:resnet18", "--size", "64x96", "--scales", "-32,0,+32", "--levels", "0"]
    result = deepir_distill("import", resnet18, "-o", out, *words)
    assert result.exit_code == 0, result.output
    assert "torchvision file: torchvision:resnet18, 120 names mapped, 2 left" in result.output
    assert "left: fc.weight, fc.bias" in result.output
    assert "whitening: none\n" in result.output
    assert f"wrote {out}" in result.output
    spec = load_model(out).spec
    assert (spec.sizes, spec.head.levels) == (((32, 64), (64, 96), (96, 128)), 0)
    quiet = deepir_distill("import", resnet18, "-o", out, "--trunk", "torchvision:resnet18", "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (("absent.caffemodel", "-o", "out.safetensors"), 3, "absent.caffemodel: No such file"),
        ((DATA / "tiny.caffemodel", "-o", "out.safetensors"), 3, "not a ResNet that is known"),
        ((DATA / "tiny.caffemodel", "-o", "out.pth"), 3, "ending in .safetensors"),
        ((DATA / "tiny.caffemodel", "-o", "absent/out.safetensors"), 3, "folder that exists"),
        ((DATA / "tiny.caffemodel", "-o", "out.safetensors", "--whitenv", "3"), 2, "--whitenv means nothing"),
    ],
)
def test_bad_input_gets_one_sentence(
    words: tuple[Any, ...], exit_code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = deepir_distill("import", *words)
    assert (result.exit_code, result.output.count("\n")) == (exit_code, 1), result.output
    assert sentence in result.output
    assert not list(tmp_path.iterdir())


def test_the_command_offers_every_kind() -> None:
    kinds = next(option for option in model_cli.import_weights.params if option.name == "kind").type
    assert tuple(kinds.choices) == importing.KINDS
