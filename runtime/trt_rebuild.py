"""An engine built again from the ONNX file beside it, by deepir-export in a process of its own; the old one is kept."""

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from deepir.errors import DeepIRError, EngineError, GateError, MemoryLimitError, MissingDependency
from deepir.files import file_sha256
from deepir.runtime.progress import Report
from deepir.runtime.sidecar import EngineRecord, read_record, sidecar_path

Rebuild = Literal["auto", "never", "always"]
"""Build an engine again before it is loaded: when it does not fit this machine, never, or each time."""

REBUILDS: tuple[Rebuild, ...] = get_args(Rebuild)

_PLANS = "*.engine"
_LAST_LINES = 20
_PATIENCE = 10.0
_ERRORS = {kind.exit_code: kind for kind in (MissingDependency, GateError, MemoryLimitError)}

_logger = logging.getLogger(__name__)


def rebuild_arguments(record: EngineRecord, onnx: Path, folder: Path) -> list[str]:
    """What deepir-export must be told to build such an engine from `onnx` into `folder`.

    They come from the sidecar's checked fields, not from the command that it remembers: that is free text.
    """
    portable = [] if record.portable == "none" else ["--portable", record.portable]
    pool = "plugin" if record.plugin == "python" else "native"
    return [
        str(onnx),
        *("--backend", record.flavour),
        *("--batch", ":".join(map(str, record.batch))),
        *("--pool", pool),
        *portable,
        *("-o", str(folder)),
    ]


def rebuild_hint(record: EngineRecord, engine: Path) -> str:
    """The command for people that builds the engine again."""
    onnx = engine.with_name(record.onnx_file)
    return shlex.join(["deepir-export", *rebuild_arguments(record, onnx, engine.parent)])


def rebuild_engine(engine: Path, record: EngineRecord, report: Report | None = None) -> EngineRecord:
    """Replace an engine and its sidecar by new ones; the old ones stay beside them with .bak at the end.

    Args:
        engine: The plan to replace; it need not be readable.
        record: Its sidecar, which names the ONNX file beside it.
        report: Is told what happens, line by line; the log is told anyway.

    Raises:
        EngineError: The ONNX file is not there or another one, or the build failed; the old engine is untouched.
        MissingDependency: This machine lacks what the build needs.
        GateError: The new engine is less accurate than it must be.
        MemoryLimitError: The build ran out of memory.
    """
    onnx = _verified_onnx(engine, record)
    _tell(report, f"building {engine.name} again from {onnx.name} (it took {record.build_seconds:.0f} s last time)")
    # beside the engine, so that the new files need only be renamed
    with _folder_beside(engine) as folder:
        last = _build(record, onnx, folder, report)
        built, fresh = _the_new_engine(folder, record, last)
        _keep(engine)
        _keep(sidecar_path(engine))
        os.replace(sidecar_path(built), sidecar_path(engine))
        os.replace(built, engine)
    if record.gate is not None and fresh.gate is None:
        _tell(report, f"the new {engine.name} was not compared with ONNX Runtime: {fresh.not_run}")
    _tell(report, f"built {engine.name} again in {fresh.build_seconds:.0f} s; the old one is {engine.name}.bak")
    return fresh


def _verified_onnx(engine: Path, record: EngineRecord) -> Path:
    onnx = engine.with_name(record.onnx_file)
    if not onnx.is_file():
        message = (
            f"{engine} cannot be built again, for {onnx.name} is not beside it: copy it there from where it was made"
        )
        raise EngineError(message)
    found = file_sha256(onnx)
    if found != record.onnx_sha256:
        message = (
            f"{engine} is not built again from {onnx.name}, which is another file now (SHA-256 {found[:12]}..., was "
            f"{record.onnx_sha256[:12]}...): if you trust it, {rebuild_hint(record, engine)}"
        )
        raise EngineError(message)
    return onnx


@contextmanager
def _folder_beside(engine: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{engine.name}.", dir=engine.parent))
    except OSError as error:
        message = (
            f"{engine} cannot be built again: {engine.parent} cannot be written ({error.strerror}); copy it elsewhere"
        )
        raise EngineError(message) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(record: EngineRecord, onnx: Path, folder: Path, report: Report | None) -> str:
    """Run the build; gives the last line that it said."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(  # noqa: S603 our own command, as a list
        _command(rebuild_arguments(record, onnx, folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # its own group: Ctrl-C reaches it through us alone, and what it started can be ended with it
        start_new_session=True,
    ) as child:
        try:
            for line in child.stdout or ():
                last.append(line.strip())
                # files in the temporary folder are nobody's business: they get other names
                if folder.name not in line:
                    _tell(report, line.rstrip())
        except BaseException:
            _stop(child)
            raise
    if child.returncode:
        raise _failure(child.returncode, last, rebuild_hint(record, onnx))
    return next((line for line in reversed(last) if line), "it said nothing")


def _stop(child: subprocess.Popen[str]) -> None:
    """Interrupt a build that nobody waits for any more, and end it when it does not listen."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "deepir.export.cli", *arguments]


def _failure(code: int, last: deque[str], hint: str) -> DeepIRError:
    spoken = [line for line in last if line]
    said = next((line for line in reversed(spoken) if line.startswith("error: ")), spoken[-1] if spoken else "")
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    reason = said.removeprefix("error: ") or "it said nothing"
    return _ERRORS.get(code, EngineError)(f"the engine could not be built again ({ended}: {reason}): try {hint}")


def _the_new_engine(folder: Path, record: EngineRecord, last: str) -> tuple[Path, EngineRecord]:
    plans = sorted(folder.glob(_PLANS))
    if len(plans) != 1:
        message = f"deepir-export wrote {len(plans)} engines instead of one ({last}): the old engine is kept"
        raise EngineError(message)
    fresh = read_record(plans[0])
    if file_sha256(plans[0]) != fresh.engine_sha256 or fresh.onnx_sha256 != record.onnx_sha256:
        message = f"deepir-export wrote {plans[0].name} and a sidecar of something else: the old engine is kept"
        raise EngineError(message)
    return plans[0], fresh


def _keep(path: Path) -> None:
    """A second name for a file, over the one of the time before; the first name is never gone."""
    if path.is_file():
        old = path.with_name(path.name + ".bak")
        old.unlink(missing_ok=True)
        try:
            os.link(path, old)
        except OSError:  # the file systems of many memory cards have no second names
            shutil.copyfile(path, old)


def _tell(report: Report | None, line: str) -> None:
    _logger.info("%s", line)
    if report is not None:
        report(line)
