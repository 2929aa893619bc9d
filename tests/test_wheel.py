"""What a user installs: the wheel alone, in a clean environment, and the sdist with its tests."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
ROOMS = ("core", "runtime", "calib", "distill", "export")
NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv", "build", "dist", "runs", "*.egg-info", "__pycache__", ".hypothesis", ".*_cache")
)
IMPORT_ALL = """
import importlib, pkgutil, sys
import deepir
for module in pkgutil.walk_packages(deepir.__path__, "deepir."):
    importlib.import_module(module.name)
for name in sorted(name for name in sys.modules if name.partition(".")[0] == "deepir"):
    sys.stdout.write(f"{name} {sys.modules[name].__file__}\\n")
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """A clean environment with the wheel in it, and an empty folder to start from."""

    environment: Path
    empty: Path

    def run(self, program: str, *words: str) -> str:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self.environment / "bin" / program), *words]
        done = subprocess.run(command, cwd=self.empty, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist, built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    run_here("build", "--outdir", str(folder / "dist"), str(folder / "source"))
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    return next(built.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """deepir from the wheel; its dependencies, and nothing else, from the environment that runs the tests."""
    environment = tmp_path_factory.mktemp("clean") / "environment"
    venv.create(environment, symlinks=True)
    python = str(environment / "bin" / "python")
    run_here("pip", "--python", python, "install", "-q", "--no-deps", "--no-index", str(wheel))
    # a folder named in a .pth file is searched, but the .pth files inside it, the editable deepir's too, are not read
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    return Installed(environment, tmp_path_factory.mktemp("empty"))


def run_here(module: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def files_below(folder: str) -> set[str]:
    """Every file below a folder of the checkout, without caches."""
    files = (file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.is_file())
    return {
        file.as_posix() for file in files if not any(part[0] == "." or part == "__pycache__" for part in file.parts)
    }


def package_of(folder: Path) -> str:
    room, *below = folder.relative_to(ROOT).parts
    return ".".join(["deepir", *([] if room == "core" else [room]), *below])


def test_pyproject_names_every_package_folder() -> None:
    folders = [init.parent for room in ROOMS for init in (ROOT / room).rglob("__init__.py")]
    assert sorted(SETUPTOOLS["packages"]) == sorted(map(package_of, folders))


def test_every_python_file_of_a_room_lies_in_a_package() -> None:
    modules = [module for room in ROOMS for module in (ROOT / room).rglob("*.py")]
    assert [str(module) for module in modules if not (module.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_wheel_holds_every_file_of_the_room(room: str, wheel: Path) -> None:
    place = "deepir" if room == "core" else f"deepir/{room}"
    expected = {f"{place}/{file.removeprefix(room + '/')}" for file in files_below(room)}
    assert expected - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_wheel_says_that_it_is_typed(wheel: Path) -> None:
    assert "deepir/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_the_kernel(wheel: Path) -> None:
    assert "deepir/runtime/roi_pool.cu" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_nothing_outside_deepir(wheel: Path) -> None:
    tops = {name.partition("/")[0].partition("-")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"deepir"}


@pytest.mark.parametrize("folder", [*ROOMS, "tests", "examples"])
def test_the_sdist_holds_every_file_of_the_folder(folder: str, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert files_below(folder) - held == set()


def test_every_module_of_the_wheel_can_be_imported_from_an_empty_folder(installed: Installed) -> None:
    places = dict(line.split(" ", 1) for line in installed.run("python", "-c", IMPORT_ALL).splitlines())
    assert set(SETUPTOOLS["packages"]) <= set(places)
    assert [place for place in places.values() if not Path(place).is_relative_to(installed.environment)] == []


@pytest.mark.parametrize("script", PROJECT["project"]["scripts"])
def test_a_command_of_the_wheel_shows_its_help(script: str, installed: Installed) -> None:
    assert "Usage:" in installed.run(script, "--help")
