"""The arrows of import between the rooms, and which third parties each room may use, read from the source."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ARROWS = {
    "core": set(),
    "runtime": {"core"},
    "calib": {"core", "runtime"},
    "distill": {"core"},
    "export": {"core", "runtime", "calib", "distill"},
}
AT_IMPORT = {
    "core": {"numpy"},
    "runtime": {"numpy", "usearch", "click"},
    "calib": {"numpy", "click"},
    "distill": {"numpy", "torch", "click"},
    "export": {"numpy", "click"},
}
THROUGH_NEED = {
    "core": {"cv2", "click"},
    "runtime": {
        *("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
        *("cuda", "pycuda", "cv2", "rich", "faiss"),
        *("starlette", "uvicorn", "prometheus_client", "paho"),
    },
    "calib": {"onnx", "onnxruntime", "modelopt", "cv2"},
    "distill": {"torchvision", "timm", "pytorch_metric_learning", "kornia", "safetensors", "sklearn", "cv2"},
    "export": {
        *("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
        *("cv2", "h5py", "openvino"),
    },
}
THE_ONE_IMPORTER = Path("core/optional.py")


@dataclass(frozen=True)
class Import:
    """A module that a file names, and where: at import, inside a function, for types only, or through need()."""

    module: str
    line: int
    place: str


def imports_of(source: str, package: str) -> list[Import]:
    """Every import of a file that lies in `package`, relative ones made absolute."""
    return list(_walk(ast.parse(source), package, "at import"))


def violations(source: str, file: Path) -> list[str]:
    """What a file of a room imports against the rules."""
    room = file.parts[0]
    package = ".".join(_package_parts(file))
    found = [(one, fault) for one in imports_of(source, package) if (fault := _fault(one, room, file))]
    return [f"{file}:{one.line} {one.module}: {fault}" for one, fault in found]


def _package_parts(file: Path) -> list[str]:
    room, *folders = file.parent.parts
    return ["deepir", *([] if room == "core" else [room]), *folders]


def _walk(node: ast.AST, package: str, place: str) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, place) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (Import(module, node.lineno, place) for module in _modules_of(node, package))
    elif isinstance(node, ast.Call):
        yield from _dynamic(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        place = "inside a function"
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _walk(child, package, "for types only")
        for child in node.orelse:
            yield from _walk(child, package, place)
        return
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, package, place)


def _modules_of(node: ast.ImportFrom, package: str) -> list[str]:
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    module = ".".join([*above, *([node.module] if node.module else [])])
    # `from deepir import runtime` names a room, not an attribute
    return [f"{module}.{alias.name}" for alias in node.names] if module == "deepir" else [module]


def _dynamic(node: ast.Call) -> Iterator[Import]:
    name = ast.unparse(node.func)
    if name in {"importlib.import_module", "import_module", "__import__"}:
        yield Import(name, node.lineno, "dynamic")
    elif name in {"need", "optional.need"}:
        yield Import(_needed(node), node.lineno, "through need()")


def _needed(call: ast.Call) -> str:
    """The module that need() is asked for; of f"timm.{name}" the part that is certain."""
    first = next(iter(call.args), None)
    if isinstance(first, ast.JoinedStr):
        first = first.values[0]
        return first.value if isinstance(first, ast.Constant) and "." in first.value else ast.unparse(call)
    return first.value if isinstance(first, ast.Constant) else ast.unparse(call)


def _fault(one: Import, room: str, file: Path) -> str | None:
    top, _, rest = one.module.partition(".")
    if one.place == "dynamic":
        return None if file == THE_ONE_IMPORTER else "only core/optional.py imports by name; use need()"
    if top in ARROWS:
        return f"a folder's name; write deepir.{one.module}"
    if top == "deepir":
        other = rest.partition(".")[0] if rest.partition(".")[0] in ARROWS else "core"
        return None if other in {room, *ARROWS[room]} else f"{room} may not import {other}"
    if top in sys.stdlib_module_names:
        return None
    return _third_party_fault(top, one.place, room, file)


def _third_party_fault(top: str, place: str, room: str, file: Path) -> str | None:
    early = AT_IMPORT[room] - ({"torch"} if file == Path("distill/cli.py") else set())
    allowed = {
        "at import": early,
        "inside a function": early,
        "for types only": AT_IMPORT[room] | THROUGH_NEED[room],
        "through need()": AT_IMPORT[room] | THROUGH_NEED[room],
    }[place]
    if top in allowed:
        return None
    cure = "use need() inside a function" if top in THROUGH_NEED[room] else f"not in the table of {room}"
    return f"{place}: {cure}"


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    assert [
        fault for file in files for fault in violations(file.read_text(encoding="utf-8"), file.relative_to(ROOT))
    ] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("runtime/ort.py", "from deepir.distill import network"),
        ("runtime/ort.py", "from deepir import distill"),
        ("runtime/ort.py", "def f():\n    import deepir.export.graph"),
        ("runtime/ort.py", "from ..distill import network"),
        ("runtime/ort.py", "if TYPE_CHECKING:\n    from deepir.distill import network"),
        ("distill/train.py", "import deepir.runtime"),
        ("core/image.py", "from deepir.runtime import index"),
        ("calib/ranges.py", "from deepir.export import graph"),
        ("export/graph.py", "from runtime import index"),
        ("export/graph.py", "import core.spec"),
        ("core/image.py", "import cv2"),
        ("core/image.py", "def f():\n    import cv2"),
        ("core/image.py", "try:\n    import cv2\nexcept ImportError:\n    cv2 = None"),
        ("core/image.py", "need('onnx')"),
        ("core/spec.py", "import click"),
        ("runtime/trt.py", "import tensorrt as trt"),
        ("runtime/trt.py", "def f():\n    need('torch')"),
        ("runtime/live_page.py", "class Page:\n    from rich import console"),
        ("export/graph.py", "import torch"),
        ("distill/cli.py", "import torch"),
        ("distill/cli.py", "def f():\n    from torch import nn"),
        ("distill/backbone.py", "from timm import create_model"),
        ("calib/quantise.py", "if TYPE_CHECKING:\n    import torch"),
        ("distill/metric.py", "need(f'{family}.losses')"),
        ("distill/metric.py", "need(family)"),
        ("runtime/ort.py", "import importlib\nimportlib.import_module('torch')"),
    ],
)
def test_the_guard_sees_a_planted_violation(file: str, source: str) -> None:
    assert len(violations(source, Path(file))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("runtime/ort.py", "from deepir.core_like import x"),
        ("runtime/ort.py", "from . import index"),
        ("runtime/ort.py", "from .index import search"),
        ("export/graph.py", "from deepir.distill.network import Network"),
        ("export/graph.py", "def f():\n    torch = need('torch')"),
        ("runtime/trt.py", "if TYPE_CHECKING:\n    import tensorrt as trt"),
        ("distill/train.py", "import torch\nfrom torch import nn"),
        ("distill/metric.py", "need(f'pytorch_metric_learning.{family}')"),
        ("core/image.py", "import os, json\nimport numpy as np"),
    ],
)
def test_the_guard_lets_the_allowed_pass(file: str, source: str) -> None:
    assert violations(source, Path(file)) == []
