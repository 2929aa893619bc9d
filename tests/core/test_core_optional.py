"""Packages asked for where they are used."""

import json
import sys

import pytest

from deepir.errors import MissingDependency
from deepir.optional import need


def test_a_package_that_is_there_is_given() -> None:
    assert need("json") is json


@pytest.mark.parametrize(
    ("name", "extra"),
    [("cv2", "cpu"), ("openvino", "cpu"), ("tensorrt", "gpu"), ("pycuda.driver", "gpu"), ("torch", "train")],
)
def test_a_package_that_is_missing_names_itself_and_what_to_install(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingDependency, match=rf"needs the package {name.partition('.')[0]} .*pip install 'deepir\[{extra}\]'"
    ):
        need(name)
