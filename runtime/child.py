"""Work done in a process of its own, where no other library disturbs it and a crash is told instead of shared."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepir.errors import (
    DeepIRError,
    EngineError,
    GateError,
    IndexFileError,
    InputError,
    MemoryLimitError,
    MissingDependency,
    OptionError,
    SourceError,
)

_KINDS: tuple[type[DeepIRError], ...] = (
    *(OptionError, InputError, MissingDependency, EngineError),
    *(GateError, SourceError, IndexFileError, MemoryLimitError),
)


def ask_child(module: str, words: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run `python -m module words` in an empty folder and give the JSON object that it told.

    Args:
        module: Ends with `tell(...)` when it is run.
        words: Its arguments; relative paths would start from the empty folder.
        seconds: How long it may take.

    Raises:
        DeepIRError: What the child raised, with its exit code.
        EngineError: It died, took too long, or could not be started.
    """
    command = [sys.executable, "-m", module, *words]
    try:
        # in an empty folder, because Python looks for modules first where it is started
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(  # noqa: S603 our own command
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, cwd=folder, check=False
            )
    except subprocess.TimeoutExpired as error:
        message = f"it took more than {seconds:.0f} s"
        raise EngineError(message) from error
    except (OSError, ValueError) as error:
        message = f"no process could be started: {error}"
        raise EngineError(message) from error
    told = _last_object(done.stdout)
    if told is None:
        raise EngineError(_end(done.returncode, done.stderr))
    if "raised" in told:
        raise kind_of(int(told["exit_code"]))(told["raised"])
    return told


def tell(work: Callable[[], Mapping[str, Any]]) -> None:
    """In the child: do the work and write what it gives, or its error, as the last line of stdout."""
    told: Mapping[str, Any]
    try:
        told = work()
    except DeepIRError as error:
        told = {"raised": str(error), "exit_code": error.exit_code}
    except MemoryError:
        told = {"raised": "out of memory", "exit_code": MemoryLimitError.exit_code}
    sys.stdout.write(f"\n{json.dumps(told)}\n")


def kind_of(exit_code: int) -> type[DeepIRError]:
    """The class of error that ends with this exit code."""
    return next((kind for kind in _KINDS if kind.exit_code == exit_code), DeepIRError)


def _last_object(stdout: bytes) -> dict[str, Any] | None:
    lines = stdout.decode(errors="replace").strip().splitlines()
    try:
        told = json.loads(lines[-1])
    except (IndexError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def _end(code: int, stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"its process ended with {how}" + (f": {lines[-1]}" if lines else "")
