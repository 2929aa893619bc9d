"""deepir-distill inspect: what a weight file holds, and how two differ."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from deepir.distill.inspect_files import compare_arrays, read_arrays
from deepir.distill.model_cli import inspect_weights
from deepir.errors import ModelError

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny.caffemodel"


def inspect(*words: object) -> Result:
    return CliRunner().invoke(inspect_weights, [str(word) for word in words])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two files that differ in a value, a shape and a name; their order and their types differ too."""
    same, value = torch.tensor([1.0, float("nan")]), torch.tensor([[1.0, 2.0]])
    save_file({"same": same, "value": value, "shape": torch.zeros(2), "a": same.clone()}, tmp_path / "a.safetensors")
    second = {"shape": torch.zeros(2, 1), "value": value + torch.tensor([[0.25, -0.5]]), "same": same.double()}
    torch.save({**second, "b": same}, tmp_path / "b.pth")
    return tmp_path / "a.safetensors", tmp_path / "b.pth"


def test_the_known_file_is_listed() -> None:
    result = inspect(TINY)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "conv1[0]  2x3x1x1  float32  0 0.25 0.5",
        "bn_conv1[0]  2  float32  2 3 4",
        "bn_conv1[1]  2  float32  2 5 8",
        "bn_conv1[2]  1  float32  2 2 2",
        "scale_conv1[0]  2  float32  1 2 3",
        "scale_conv1[1]  2  float32  -0.5 0 0.5",
        "pooled_rois/pca[0]  1x1x2x2  float32  0 0.375 0.75",
        "pooled_rois/pca[1]  2  float64  0.1 0.15 0.2",
        "8 arrays, 21 values",
    ]


def test_json_holds_the_same_numbers(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.0, 3.0, float("inf")]), "b": torch.tensor(7)}, tmp_path / "m.safetensors")
    found = json.loads(inspect(tmp_path / "m.safetensors", "--json").output)["arrays"]
    numbers = {"shape": [3], "dtype": "float32", "lowest": 1.0, "mean": 2.0, "highest": 3.0, "not_finite": 1}
    by_name = {entry.pop("name"): entry for entry in found}
    assert by_name["a"] == numbers
    assert (by_name["b"]["shape"], by_name["b"]["dtype"], by_name["b"]["lowest"]) == ([], "int64", 7.0)


def test_what_is_not_finite_is_said(tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([1.0, float("nan")]), "none": torch.zeros(0)}, tmp_path / "m.pth")
    lines = inspect(tmp_path / "m.pth").output.splitlines()
    assert lines[:2] == ["a  2  float32  1 1 1  1 NaN or infinite", "none  0  float32  no finite values"]


def test_objects_and_lists_inside_a_checkpoint_have_names(write_naver: Callable[..., Path], tmp_path: Path) -> None:
    shared = torch.ones(2)
    content = {"state_dict": {"w": shared}, "list": [torch.zeros(1), (torch.zeros(3),)], "again": {"w": shared}}
    content["loop"] = content["list"]
    path = write_naver(tmp_path / "m.pt", content, {"clean": {"mean_": np.arange(3.0)}})
    names = {name: array.shape for name, array in read_arrays(path).items()}
    assert names == {
        "state_dict.w": (2,),
        "list[0]": (1,),
        "list[1][0]": (3,),
        "again.w": (2,),
        "meters.loss.vals[0]": (),
        "pca.clean.mean_": (3,),
    }


def test_equal_files_end_with_0(tmp_path: Path) -> None:
    result = inspect(TINY, TINY)
    assert (result.exit_code, result.output) == (0, "equal: 8 arrays\n")
    assert json.loads(inspect(TINY, TINY, "--json").output)["equal"] is True


def test_different_files_end_with_1_and_say_how(pair: tuple[Path, Path]) -> None:
    result = inspect(*pair)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "a  only in A",
        "b  only in B",
        "shape  shape (2,) and (2, 1)",
        "value  values by at most 0.5",
        "4 differences",
    ]


def test_differences_as_json(pair: tuple[Path, Path]) -> None:
    result = inspect(*pair, "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["equal"], found["a"]) == (False, str(pair[0]))
    assert {"name": "value", "what": "values", "detail": "", "largest": 0.5} in found["differences"]


@pytest.mark.parametrize("other", [float("nan"), float("inf")])
def test_nan_on_one_side_is_a_difference(other: float) -> None:
    first, second = {"a": np.float32([1, 2])}, {"a": np.float32([1, other])}
    (difference,) = compare_arrays(first, second)
    assert (difference.what, difference.largest) == ("NaN", None)
    assert compare_arrays(second, second) == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.pth", {"epoch": 1, "list": ["text"]}, "holds no arrays"),
        ("m.pth", {"sparse": torch.eye(2).to_sparse()}, "m.pth: it holds a tensor that is sparse"),
        ("m.caffemodel", None, "it is empty"),
        ("absent.pth", None, "No such file"),
    ],
)
def test_bad_files_get_one_sentence(name: str, content: Any, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        torch.save(content, tmp_path / name)
    elif name != "absent.pth":
        (tmp_path / name).touch()
    result = inspect(tmp_path / name)
    assert (result.exit_code, result.output.count("\n")) == (3, 1), result.output
    assert sentence in result.output


def test_endless_nesting_ends(tmp_path: Path) -> None:
    nested: Any = [torch.ones(1)]
    for _ in range(200):
        nested = [nested, nested]
    torch.save({"nested": nested}, tmp_path / "m.pth")
    assert len(read_arrays(tmp_path / "m.pth")) == 1


def test_too_many_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepir.distill.inspect_files._MOST_NAMES", 3)
    torch.save([torch.ones(1)] * 4, tmp_path / "m.pth")
    with pytest.raises(ModelError, match="more than 3 arrays"):
        read_arrays(tmp_path / "m.pth")
