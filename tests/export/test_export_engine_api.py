"""Every name that we use of TensorRT exists in 10.3, 10.16, 11.4 and TensorRT-RTX, or is asked for first."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("fake_tensorrt") / "tensorrt.py"
VERSIONS = ["10.3", "10.16", "11.4"]

BUILDING = ["export/engine_network.py", "export/engine_monitor.py", "export/engine_head.py"]
RUNNING = sorted(
    str(file.relative_to(ROOT))
    for pattern in ("trt*.py", "roi_plugin.py", "tensorrt_library.py")
    for file in (ROOT / "runtime").glob(pattern)
)
MODULE = {"trt", "library"}
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "tensor": "ITensor",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "inspector": "EngineInspector",
}
"""How our variables are called that hold TensorRT's objects, there or as attributes with an underscore."""

PYTHONS_OWN = {name for kind in (int, bytes, list) for name in dir(kind)}
"""What the fake's classes have from those that they are made of."""

SURFACE = """
import json, sys
module = __import__(sys.argv[1])
kinds = {name: kind for name, kind in vars(module).items() if isinstance(kind, type)}
names = {"": dir(module), **{name: dir(kind) for name, kind in kinds.items()}}
sys.stdout.write(json.dumps({"version": module.__version__, "names": names}))
"""


def used_names(source: str, objects: dict[str, str]) -> set[tuple[str, str]]:
    """(class, name) of every use of the module and of its objects; the class of the module itself is empty.

    A name that stands as a text in the file is asked for there, with hasattr or getattr.
    """
    tree = ast.parse(source)
    asked = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {(kind, name) for kind, name in _uses(tree, objects) if name not in asked and not name.startswith("__")}


def _uses(tree: ast.AST, objects: dict[str, str]) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = _last_name(node.value)
        if owner in MODULE:
            yield "", node.attr
        elif owner in objects:
            yield objects[owner], node.attr
        elif isinstance(node.value, ast.Attribute) and _last_name(node.value.value) in MODULE:
            yield node.value.attr, node.attr


def _last_name(node: ast.AST) -> str:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_")


def surface(module: str, environment: dict[str, str]) -> dict[str, set[str]]:
    """The names of a module and of each of its classes, asked in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SURFACE, module], check=True, capture_output=True, text=True, env=environment
    )
    return {kind: set(names) for kind, names in json.loads(done.stdout)["names"].items()}


def ours() -> dict[str, set[tuple[str, str]]]:
    """What each of our files uses; only the files that build name their variables as in OBJECTS."""
    return {
        **{file: used_names((ROOT / file).read_text(encoding="utf-8"), OBJECTS) for file in BUILDING},
        **{file: used_names((ROOT / file).read_text(encoding="utf-8"), {}) for file in RUNNING},
    }


def absent(names: dict[str, set[str]]) -> list[str]:
    """The uses for which a module has no name."""
    return sorted(
        f"{file}: {kind or 'module'}.{name}"
        for file, uses in ours().items()
        for kind, name in uses
        if name not in names.get(kind, set())
    )


def test_the_files_that_use_tensorrt_are_found_and_do_use_it() -> None:
    uses = ours()
    assert len(uses) >= 5
    assert ("Builder", "build_serialized_network") in uses["export/engine_network.py"]
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in uses["export/engine_network.py"]


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("trt.BuilderFlag.FP16", ("BuilderFlag", "FP16")),
        ("self._trt.init_libnvinfer_plugins(log)", ("", "init_libnvinfer_plugins")),
        ("self._config.int8_calibrator = 1", ("IBuilderConfig", "int8_calibrator")),
        ("builder.platform_has_fast_int8", ("Builder", "platform_has_fast_int8")),
    ],
)
def test_a_removed_name_would_be_seen(source: str, use: tuple[str, str]) -> None:
    assert use in used_names(source, OBJECTS)


def test_a_name_that_is_asked_for_first_is_allowed() -> None:
    assert used_names("if hasattr(layer, 'precision'): layer.precision = 1", OBJECTS) == set()


def test_what_must_never_be_used_is_used_nowhere() -> None:
    forbidden = {"plugins_to_serialize", "engine_host_code_allowed", "init_libnvinfer_plugins", "int8_calibrator"}
    used = {name for uses in ours().values() for _, name in uses}
    assert used & forbidden == set()


@pytest.mark.rtx
def test_tensorrt_rtx_has_every_name_that_building_and_running_use() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx (Linux on x86-64)")
    names = surface("tensorrt_rtx_bindings", dict(os.environ))
    # the parts that end with full TensorRT are behind is_weak and plugin_problem
    assert absent(names) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_tensorrt_has_every_name_that_we_use(
    tensorrt_bindings: Callable[[str], dict[str, str]], version: str
) -> None:
    assert absent(surface("tensorrt_bindings", tensorrt_bindings(version))) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_the_names_of_the_real_tensorrt_and_lacks_what_that_lacks(
    tensorrt_bindings: Callable[[str], dict[str, str]], version: str
) -> None:
    real = surface("tensorrt_bindings", tensorrt_bindings(version))
    fakes = {
        one: surface("tensorrt", {**os.environ, "PYTHONPATH": str(FAKE.parent), "FAKE_TENSORRT_VERSION": one})
        for one in VERSIONS
    }
    differences = [
        f"{kind}.{name}"
        for kind in {kind for fake in fakes.values() for kind in fake} & real.keys() - {""}
        for name in {name for fake in fakes.values() for name in fake.get(kind, set())}
        if not name.startswith("_") and name not in PYTHONS_OWN and kind != "Severity"
        if (name in fakes[version].get(kind, set())) != (name in real[kind])
    ]
    assert differences == []
