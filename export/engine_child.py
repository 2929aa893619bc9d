"""The process that builds: python -m deepir.export.engine_child REQUEST.json; JSON lines on its stdout."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepir.errors import DeepIRError, MemoryLimitError
from deepir.export.engine_network import PlanBuilder, read_precision
from deepir.export.engine_request import BuildRequest, BuildResult
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt, make_logger

_STATUS = Path("/proc/self/status")
_KIB = 1 << 10
_BETWEEN_STEPS = 0.1

Tell = Callable[[dict[str, Any]], None]


def build(request: BuildRequest, tell: Tell) -> BuildResult:
    """Build a plan and write it; `tell` hears {"share": 0..1}, at most ten times a second.

    Raises:
        EngineError: TensorRT does not build it.
        MemoryLimitError: Memory ran out, and TensorRT noticed.
        MissingDependency: No TensorRT here.
    """
    rtx = request.flavour == Flavour.RTX.value
    trt = load_tensorrt(Flavour(request.flavour))
    log = make_logger(trt, verbose=rtx, listener=_to_stderr)
    builder = PlanBuilder(trt, log, request)
    plan = builder.build(_steps(tell))
    with Path(request.plan).open("wb") as stream:
        stream.write(plan)
    if request.timing_out:
        Path(request.timing_out).write_bytes(builder.timing())
    notes, dropped = builder.notes, list[str]()
    if rtx:
        precision, dropped = builder.precisions()
    else:
        # what the builder holds is no longer needed, and loading the plan takes memory too
        del builder
        precision = read_precision(trt, log, plan)
    return BuildResult(precision=precision, dropped=dropped, peak_mib=_peak_mib(), notes=notes)


def main() -> None:
    """Read the request, build, answer; what goes wrong is answered too, unless the process dies of it."""
    # Ctrl-C reaches the whole group; the parent decides, and ends this process by its stdin or a signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell = _answers()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        request = BuildRequest.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
        tell({"result": build(request, tell).fields()})
    except DeepIRError as error:
        tell({"error": type(error).__name__, "message": str(error)})
    except MemoryError:
        tell({"error": MemoryLimitError.__name__, "message": "Python could not allocate memory"})


def _answers() -> Tell:
    """JSON lines on the stdout of the start; what native code prints there goes to stderr from now on."""
    # held by the function that is returned until the process ends
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(fields: dict[str, Any]) -> None:
        channel.write(json.dumps(fields) + "\n")
        channel.flush()

    return tell


def _end_with_parent() -> None:
    """The parent holds the other end of stdin: when that closes, nobody waits for the build any more."""
    # not sys.stdin, whose lock the interpreter would wait for at its end
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _steps(tell: Tell) -> Callable[[float], None]:
    last = 0.0

    def step(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _BETWEEN_STEPS:
            last = time.monotonic()
            tell({"share": share})

    return step


def _peak_mib() -> float | None:
    """The most memory that this process held; not getrusage's figure, which begins with the parent's."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else round(int(found[1]) / _KIB, 1)


def _to_stderr(severity: str, message: str) -> None:
    if severity != "VERBOSE":
        sys.stderr.write(f"[{severity}] {message}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
