"""One program tried with one file in a process of its own, where no other library's threads disturb it.

The process is this module: python -m deepir.runtime.choice_probe MODEL.onnx openvino 0 (tensorrt.md 11).
"""

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deepir.errors import DeepIRError
from deepir.runtime.intel_cpu import OpenVinoBackend
from deepir.runtime.openvino_refusal import OpenVinoRefusal
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.self_check import MADE_UP, milliseconds_each, proof_inputs

_MOST_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of trying a program.

    Attributes:
        milliseconds: For one picture, the median; None when the program cannot run the file here.
        note: How it was proven, or why it cannot.
    """

    milliseconds: float | None
    note: str = ""


def probe(path: Path, backend: str, threads: int) -> Probe:
    """Try `openvino`, `onnxruntime` (its CPU) or `cuda` in a child; whatever happens to it is told, not raised."""
    words = [sys.executable, "-m", "deepir.runtime.choice_probe", str(path.absolute()), backend, str(threads)]
    try:
        # in an empty folder, because Python looks for modules first where it is started
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(  # noqa: S603 our own command
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_MOST_SECONDS,
                cwd=folder,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return Probe(None, f"it took more than {_MOST_SECONDS} s")
    except (OSError, ValueError) as error:
        return Probe(None, f"no process could be started: {error}")
    return _read(done.stdout) or Probe(None, _end(done.returncode, done.stderr))


def read_probe(fields: Any) -> Probe:
    """A probe from its JSON.

    Raises:
        TypeError, KeyError, ValueError: Not such JSON.
    """
    milliseconds = fields["milliseconds"]
    return Probe(None if milliseconds is None else float(milliseconds), str(fields["note"]))


def main(words: list[str]) -> None:
    """The child: try, and write the probe as one line of JSON."""
    path, backend, threads = Path(words[0]), words[1], int(words[2])
    try:
        found = _try(path, backend, threads)
    except OpenVinoRefusal as error:
        found = Probe(None, error.reason)
    except DeepIRError as error:
        found = Probe(None, str(error))
    sys.stdout.write(f"\n{json.dumps(asdict(found))}\n")


def _try(path: Path, backend: str, threads: int) -> Probe:
    note = ""
    opened: OpenVinoBackend | OnnxBackend
    if backend == "openvino":
        opened = OpenVinoBackend(path, threads=threads)
        if opened.proof is not None and opened.proof.verdict is not None:
            verdict = opened.proof.verdict
            note = f"proven on {verdict.images} {MADE_UP}: cosine min {verdict.cosine_min:.4f}"
    else:
        opened = OnnxBackend(path, "cuda" if backend == "cuda" else "cpu", threads=threads)
    with opened:
        arrays = next(proof_inputs(opened.card))
        return Probe(milliseconds_each(partial(opened.run, *arrays)), note)


def _read(stdout: bytes) -> Probe | None:
    lines = stdout.decode(errors="replace").strip().splitlines()
    try:
        return read_probe(json.loads(lines[-1]))
    except (IndexError, ValueError, KeyError, TypeError):
        return None


def _end(code: int, stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"its process ended with {how}" + (f": {lines[-1]}" if lines else "")


if __name__ == "__main__":
    main(sys.argv[1:])
