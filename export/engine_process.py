"""The build in a process of its own: its answers, and one sentence for each way in which it can die."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from deepir import errors
from deepir.errors import DeepIRError, EngineError, MemoryLimitError
from deepir.export.engine_request import BuildRequest, BuildResult

_SAID = "said.txt"
_REQUEST = "request.json"
_TAIL_BYTES = 8192
_TAIL_LINES = 4
_MOST_LETTERS = 600

Tick = Callable[[float | None], None]
"""Called with the share that is done, 0..1, and with None when the process has said nothing for a while."""


def run_build(request: BuildRequest, folder: Path, tick: Tick, *, quiet_seconds: float = 1.0) -> BuildResult:
    """Build in a child process.

    The child ends with this function, however that is left: Ctrl-C here ends it too.

    Args:
        request: What to build.
        folder: For the request and what the child says on stderr; the caller removes it.
        tick: See `Tick`.
        quiet_seconds: After how long without a word `tick` is called with None.

    Raises:
        EngineError: TensorRT refuses or crashes; says what it said last.
        MemoryLimitError: The system killed it, or memory ran out; the caller adds figures and the cure.
        DeepIRError: What else the child reports, as the class it was there.
    """
    path = folder / _REQUEST
    path.write_text(request.to_json(), encoding="utf-8")
    with (folder / _SAID).open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 our own module, as a list
            [sys.executable, "-m", "deepir.export.engine_child", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
    lines: queue.Queue[bytes | None] = queue.Queue()
    # a thread, because a pipe cannot be read with a time limit on every system
    reader = threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        answer = _listen(lines, tick, quiet_seconds)
        process.wait()
    finally:
        process.kill()
        process.wait()
        # only when the reader saw the end may its stream be closed
        reader.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    if answer is None:
        raise _death(process.returncode, _tail(folder / _SAID))
    if "error" in answer:
        raise _reported(answer)
    return BuildResult.from_fields(answer["result"])


def _listen(lines: "queue.Queue[bytes | None]", tick: Tick, quiet_seconds: float) -> dict[str, Any] | None:
    """The last answer of the child; None when it ends without one."""
    answer = None
    while True:
        try:
            line = lines.get(timeout=quiet_seconds)
        except queue.Empty:
            tick(None)
            continue
        if line is None:
            return answer
        fields = json.loads(line)
        if "share" in fields:
            tick(fields["share"])
        else:
            answer = fields


def _read_lines(stream: IO[bytes], lines: "queue.Queue[bytes | None]") -> None:
    for line in stream:
        # a child that is killed may leave half a line
        if line.endswith(b"\n"):
            lines.put(line)
    lines.put(None)


def _reported(answer: dict[str, Any]) -> DeepIRError:
    kind = getattr(errors, str(answer["error"]), EngineError)
    error: DeepIRError = kind(answer["message"])
    return error


def _death(code: int, tail: str) -> DeepIRError:
    last = f": {tail}" if tail else ""
    if code == -signal.SIGKILL:
        return MemoryLimitError(f"the process was killed{last}")
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        message = f"TensorRT crashed while it built the engine ({name}){last}"
    else:
        message = f"the process that builds the engine ended with code {code}{last}"
    return EngineError(f"{message}; try again with --pool native or another precision, and tell us of it")


def _tail(path: Path) -> str:
    """The last words on stderr, in one line."""
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - _TAIL_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_TAIL_LINES:])[-_MOST_LETTERS:]
