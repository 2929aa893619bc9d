"""Tidiness of the rooms: short files with a first line, no print, nothing unfinished, no foreign code run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "runtime", "calib", "distill", "export")
MOST_LINES = 300
HOMELESS = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
UNFINISHED = re.compile(r"\b(?:NotImplementedError|TODO|FIXME|XXX)\b")
FILES = sorted(file.relative_to(ROOT) for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def dangers(source: str) -> list[str]:
    """Calls that print, or that run what a file or a string says."""
    return [name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) for name in _dangers_of(node)]


def _dangers_of(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name in {"print", "eval", "exec"} or re.fullmatch(
        r"(?:c?[pP]ickle|dill|joblib|marshal)\.(?:loads?|Unpickler)", name
    ):
        yield name
    for keyword in call.keywords:
        if (keyword.arg, ast.unparse(keyword.value)) in {
            ("shell", "True"),
            ("allow_pickle", "True"),
            ("weights_only", "False"),
        }:
            yield f"{keyword.arg}={ast.unparse(keyword.value)}"
    if name == "torch.load" and not any(keyword.arg == "weights_only" for keyword in call.keywords):
        yield "torch.load without weights_only"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_has_at_most_three_hundred_lines(file: Path) -> None:
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_says_in_its_first_line_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_neither_prints_nor_runs_foreign_code(file: Path) -> None:
    assert dangers((ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_is_finished(file: Path) -> None:
    assert UNFINISHED.findall((ROOT / file).read_text(encoding="utf-8")) == []


def test_no_file_is_a_drawer_for_what_has_no_name() -> None:
    assert [str(file) for file in FILES if file.name in HOMELESS] == []


def test_the_test_folders_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "eval('1')",
        "pickle.load(stream)",
        "pickle.loads(content)",
        "subprocess.run(words, shell=True)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path, weights_only=False)",
        "torch.load(path)",
    ],
)
def test_the_guard_sees_a_planted_danger(source: str) -> None:
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source", ["model.eval()", "click.echo(1)", "torch.load(path, weights_only=True)", "pickle.dumps(1)"]
)
def test_the_guard_lets_the_harmless_pass(source: str) -> None:
    assert dangers(source) == []
