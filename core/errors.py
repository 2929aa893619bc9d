"""Every error deepir raises, as one tree; each class carries the exit code of the commands.

DeepIRError              1  unexpected
├── OptionError          2  options that contradict each other, or a value out of range
│   └── SpecError        2  a model description that cannot be
├── InputError           3  a file or folder that is missing, unreadable or empty
│   ├── ModelError       3  a model file that is truncated, foreign or holds NaN
│   └── ShapeError       3  an array of the wrong shape, type or range
├── MissingDependency    4  a package or a device that this machine lacks
├── EngineError          5  a model that this machine cannot run
├── GateError            6  the result is less accurate than it must be
├── SourceError          7  a camera or a video that is not there or was lost
├── IndexFileError       8  an index that is damaged
│   ├── IndexModelError  8  an index made by another model
│   └── IndexBusyError   8  an index that another program is changing
└── MemoryLimitError     9  out of memory
"""

import functools
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

INTERRUPTED = 130
"""Exit code after Ctrl-C, when the state was saved."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class DeepIRError(Exception):
    """Base of all: one sentence with the value and the cure."""

    exit_code = 1


class OptionError(DeepIRError):
    """Options that contradict each other, or a value out of range."""

    exit_code = 2


class SpecError(OptionError):
    """A model description that cannot be."""


class InputError(DeepIRError):
    """A file or folder that is missing, unreadable or empty."""

    exit_code = 3


class ModelError(InputError):
    """A model file that is truncated, foreign or holds NaN."""


class ShapeError(InputError):
    """An array of the wrong shape, type or range."""


class MissingDependency(DeepIRError):  # noqa: N818 the name says it
    """A package or a device that this machine lacks."""

    exit_code = 4


class EngineError(DeepIRError):
    """A model that this machine cannot run."""

    exit_code = 5


class GateError(DeepIRError):
    """The result is less accurate than it must be."""

    exit_code = 6


class SourceError(DeepIRError):
    """A camera or a video that is not there or was lost."""

    exit_code = 7


class IndexFileError(DeepIRError):
    """An index that is damaged."""

    exit_code = 8


class IndexModelError(IndexFileError):
    """An index made by another model."""


class IndexBusyError(IndexFileError):
    """An index that another program is changing."""


class MemoryLimitError(DeepIRError):
    """Out of memory."""

    exit_code = 9


def reports_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wrap the body of a command: an error becomes one sentence on stderr and its exit code.

    Raises:
        SystemExit: With the exit code of the error, 9 when memory ran out, 130 after Ctrl-C.
    """

    @functools.wraps(command)
    def wrapped(*args: _P.args, **options: _P.kwargs) -> _R:
        try:
            return command(*args, **options)
        except DeepIRError as error:
            _leave(str(error), error.exit_code)
        except MemoryError:
            _leave("out of memory: use smaller images or a smaller batch", MemoryLimitError.exit_code)
        except KeyboardInterrupt:
            _leave("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # the reader of our output (head, less) left; the interpreter must not write to it again at exit
            sys.stdout = None
            raise SystemExit(0) from None
        except OSError as error:
            _leave(f"{error.filename or 'system'}: {error.strerror or error}", InputError.exit_code)

    return wrapped


def _leave(sentence: str, exit_code: int) -> NoReturn:
    sys.stderr.write(f"error: {sentence}\n")
    raise SystemExit(exit_code) from None
