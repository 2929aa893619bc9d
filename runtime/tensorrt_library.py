"""TensorRT's Python module, of either flavour: imported here and nowhere else, and what it says is kept."""

import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from deepir.errors import MissingDependency
from deepir.optional import need

Listener = Callable[[str, str], None]
"""Called with the severity's name and the message, as TensorRT speaks; it must not raise."""

_MOST_LINES = 2000
_SYSTEM_PYTHONS = Path("/usr/lib")


class Flavour(str, Enum):
    """TensorRT itself (JetPack, data centre), or TensorRT-RTX for RTX cards, which builds without a GPU."""

    TENSORRT = "tensorrt"
    RTX = "rtx"


class Log(Protocol):
    """A TensorRT logger that keeps the lines: (name of the severity, message), oldest first."""

    lines: list[tuple[str, str]]

    def errors(self) -> list[str]:
        """The messages of severity ERROR and INTERNAL_ERROR, oldest first."""


def load_tensorrt(flavour: Flavour) -> ModuleType:
    """Import the module of a flavour.

    Raises:
        MissingDependency: It is not installed, its own libraries are not found, or this environment does not see
            the one that JetPack installed; says which, and the command that cures it.
    """
    try:
        return need("tensorrt_rtx_bindings") if flavour is Flavour.RTX else need("tensorrt")
    except MissingDependency as error:
        seen_by = [] if flavour is Flavour.RTX else _system_pythons(_SYSTEM_PYTHONS)
        if not seen_by:
            raise
        message = (
            f"TensorRT is installed for {' and '.join(seen_by)} of the system, and this environment "
            f"(Python {sys.version_info.major}.{sys.version_info.minor}) does not see it ({error.__cause__}): make "
            f"the environment with {seen_by[-1]} -m venv --system-site-packages .venv"
        )
        raise MissingDependency(message) from error
    except OSError as error:
        # the module opens its libraries itself, and JetPack 7.2 without the DLA package lacks one
        message = f"{flavour.value} is here but cannot load its libraries ({error}): install the one it names, with apt"
        raise MissingDependency(message) from error


def tensorrt_version(trt: ModuleType) -> str:
    """The version of the loaded module, such as 10.3.0; of TensorRT-RTX such as 1.7.1.116."""
    return str(trt.__version__)


def make_logger(trt: ModuleType, *, verbose: bool = False, listener: Listener | None = None) -> Log:
    """A logger for this module; it never prints.

    Args:
        trt: The module.
        verbose: Keep VERBOSE lines too, and every line; otherwise the last two thousand without them.
        listener: Is told each line that is kept.
    """

    class Keeper(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            # pybind11 needs its own initialiser called, not that of the next class in line
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            kind = severity.name
            if kind == "VERBOSE" and not verbose:
                return
            self.lines.append((kind, message))
            if not verbose:
                del self.lines[:-_MOST_LINES]
            if listener is not None:
                listener(kind, message)

        def errors(self) -> list[str]:
            return [message for kind, message in self.lines if kind.endswith("ERROR")]

    keeper: Log = Keeper()
    return keeper


def _system_pythons(folder: Path) -> list[str]:
    """The Pythons of the system that have TensorRT, such as python3.10; the newest last."""
    found = [path.parts[-3] for path in folder.glob("python3*/dist-packages/tensorrt")]
    return sorted(found, key=lambda name: (len(name), name))
