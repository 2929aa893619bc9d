"""An engine built again by a real child process: replaced whole with the old one kept, or not touched at all."""

import dataclasses
import errno
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepir.card import GateVerdict
from deepir.errors import DeepIRError, EngineError, GateError, MemoryLimitError, MissingDependency
from deepir.runtime import trt_rebuild
from deepir.runtime.sidecar import EngineRecord, read_record, write_record
from deepir.runtime.trt_rebuild import rebuild_arguments, rebuild_engine, rebuild_hint

OLD, NEW, ONNX = b"the old plan", b"the new plan", b"onnx"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


RECORD = dataclasses.replace(
    EngineRecord.from_json((Path(__file__).parents[1] / "data" / "engine.json").read_text()),
    engine_sha256=sha(OLD),
    engine_bytes=len(OLD),
    onnx_file="shop.int8.onnx",
    onnx_sha256=sha(ONNX),
    gpu=None,
    build_seconds=212.4,
    command=("rm", "-rf", "everything"),
    host={},
)
FRESH = dataclasses.replace(RECORD, engine_sha256=sha(NEW), tensorrt_version="10.16.2", build_seconds=99.6)

WRITE = """
import sys
import time
from pathlib import Path
folder, sidecar = Path(sys.argv[1]), sys.argv[2]
sys.stderr.write(f"30 % built\\nwrote {folder}/it.engine\\n")
(folder / "shop.int8.trt10.16-sm87.engine").write_bytes(b"the new plan")
(folder / "shop.int8.trt10.16-sm87.engine.json").write_text(sidecar)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "shop.engine"
    path.write_bytes(OLD)
    write_record(path, RECORD)
    (tmp_path / "shop.int8.onnx").write_bytes(ONNX)
    return path


def child(monkeypatch: pytest.MonkeyPatch, program: str, record: EngineRecord = FRESH) -> list[list[str]]:
    """Let a real process run this program with the folder and a sidecar as words; gives what it was asked for."""
    asked: list[list[str]] = []

    def command(words: list[str]) -> list[str]:
        asked.append(words)
        return [sys.executable, "-c", program, words[words.index("-o") + 1], record.to_json()]

    monkeypatch.setattr(trt_rebuild, "_command", command)
    return asked


def nothing_changed(engine: Path) -> bool:
    names = {path.name for path in engine.parent.iterdir()}
    same = names == {"shop.engine", "shop.engine.json", "shop.int8.onnx"}
    return same and engine.read_bytes() == OLD and read_record(engine) == RECORD


def test_the_new_engine_takes_the_old_ones_name_and_the_old_one_is_kept(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, WRITE)
    assert rebuild_engine(engine, RECORD) == FRESH
    assert (engine.read_bytes(), read_record(engine)) == (NEW, FRESH)
    kept = engine.with_name("shop.engine.bak")
    assert kept.read_bytes() == OLD
    assert EngineRecord.from_json(engine.with_name("shop.engine.json.bak").read_text()) == RECORD
    assert len(list(engine.parent.iterdir())) == 5


def test_a_second_rebuild_keeps_the_one_before(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, WRITE)
    rebuild_engine(engine, RECORD)
    rebuild_engine(engine, FRESH)
    assert engine.with_name("shop.engine.bak").read_bytes() == NEW
    assert len(list(engine.parent.iterdir())) == 5


def test_a_disk_without_second_names_keeps_a_copy(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        message = "Operation not permitted"
        raise PermissionError(message)

    child(monkeypatch, WRITE)
    monkeypatch.setattr(os, "link", refuse)
    rebuild_engine(engine, RECORD)
    assert (engine.read_bytes(), engine.with_name("shop.engine.bak").read_bytes()) == (NEW, OLD)


def test_it_says_what_it_does_to_the_caller_and_to_the_log(
    engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child(monkeypatch, WRITE)
    lines: list[str] = []
    with caplog.at_level(logging.INFO):
        rebuild_engine(engine, RECORD, lines.append)
    assert lines == [
        "building shop.engine again from shop.int8.onnx (it took 212 s last time)",
        "30 % built",
        "built shop.engine again in 100 s; the old one is shop.engine.bak",
    ]
    assert [record.getMessage() for record in caplog.records] == lines


def test_a_proof_that_is_lost_is_told(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = GateVerdict(passed=True, cosine_min=0.99, cosine_mean=0.995, agreement=1.0, images=32)
    proven = dataclasses.replace(RECORD, gate=verdict, not_run="")
    child(monkeypatch, WRITE)
    lines: list[str] = []
    rebuild_engine(engine, proven, lines.append)
    assert "the new shop.engine was not compared with ONNX Runtime: a test" in lines


def test_the_command_comes_from_the_checked_fields_and_not_from_the_remembered_line(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = child(monkeypatch, WRITE)
    rebuild_engine(engine, RECORD)
    onnx, folder = str(engine.with_name("shop.int8.onnx")), asked[0][-1]
    assert asked == [[onnx, "--backend", "tensorrt", "--batch", "1:4:8", "--pool", "native", "-o", folder]]
    assert Path(folder).parent == engine.parent
    full = dataclasses.replace(RECORD, flavour="rtx", plugin="python", portable="both", batch=(2, 2, 2))
    assert rebuild_arguments(full, Path("a.onnx"), Path("out")) == [
        *("a.onnx", "--backend", "rtx", "--batch", "2:2:2", "--pool", "plugin", "--portable", "both", "-o", "out")
    ]


def test_the_hint_is_a_line_for_a_shell() -> None:
    hint = rebuild_hint(RECORD, Path("my models/shop.engine"))
    assert hint.startswith("deepir-export 'my models/shop.int8.onnx' --backend tensorrt --batch 1:4:8 ")
    assert hint.endswith("-o 'my models'")


def test_the_real_command_is_a_list_for_this_python(tmp_path: Path) -> None:
    words = trt_rebuild._command(["a b.onnx"])
    assert words[0] == sys.executable
    assert words[-1] == "a b.onnx"
    result = subprocess.run([*words[:-1], "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage:")


def test_without_its_onnx_file_an_engine_stays_as_it_is(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = child(monkeypatch, WRITE)
    engine.with_name("shop.int8.onnx").unlink()
    with pytest.raises(EngineError, match=r"shop\.int8\.onnx is not beside it: copy it there"):
        rebuild_engine(engine, RECORD)
    assert asked == []
    assert engine.read_bytes() == OLD


def test_another_onnx_file_under_the_name_is_not_built(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = child(monkeypatch, WRITE)
    engine.with_name("shop.int8.onnx").write_bytes(b"another")
    with pytest.raises(EngineError, match=r"which is another file now .*if you trust it, deepir-export"):
        rebuild_engine(engine, RECORD)
    assert asked == []
    assert nothing_changed(engine)


@pytest.mark.parametrize(
    ("program", "kind", "sentence"),
    [
        (
            "import sys; sys.exit('error: this needs the package torch: pip install deepir[train]')",
            EngineError,
            r"\(exit code 1: this needs the package torch: pip install deepir\[train\]\): try deepir-export",
        ),
        ("import sys; sys.stderr.write('error: no onnx\\n'); sys.exit(4)", MissingDependency, "exit code 4: no onnx"),
        ("import sys; sys.stderr.write('error: cosine 0.2\\n'); sys.exit(6)", GateError, "cosine 0.2"),
        ("import sys; sys.stderr.write('error: no memory\\nbye\\n'); sys.exit(9)", MemoryLimitError, "9: no memory"),
        ("print('half'); print('of it'); import sys; sys.exit(5)", EngineError, "exit code 5: of it"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", EngineError, "signal 9: it said nothing"),
        ("pass", EngineError, r"wrote 0 engines instead of one \(it said nothing\)"),
        ("print('tensorrt: not on this machine')", EngineError, r"0 engines .*\(tensorrt: not on this machine\)"),
        (WRITE + "(folder / 'b.engine').write_bytes(b'')", EngineError, "wrote 2 engines"),
        (WRITE + "(folder / 'shop.int8.trt10.16-sm87.engine.json').unlink()", EngineError, "nobody knows where"),
        (WRITE + "(folder / 'shop.int8.trt10.16-sm87.engine').write_bytes(b'x')", EngineError, "of something else"),
        ("raise SystemExit(7)", EngineError, "exit code 7: it said nothing"),
    ],
)
def test_a_build_that_fails_leaves_everything_and_is_one_sentence(
    engine: Path, monkeypatch: pytest.MonkeyPatch, program: str, kind: type[DeepIRError], sentence: str
) -> None:
    child(monkeypatch, program)
    with pytest.raises(kind, match=sentence) as caught:
        rebuild_engine(engine, RECORD)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert nothing_changed(engine)


def test_an_engine_of_another_onnx_file_is_not_taken(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, WRITE, dataclasses.replace(FRESH, onnx_sha256="ab" * 32))
    with pytest.raises(EngineError, match="of something else: the old engine is kept"):
        rebuild_engine(engine, RECORD)
    assert nothing_changed(engine)


def test_ctrl_c_ends_the_build_too(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = engine.with_name("pid")
    child(
        monkeypatch,
        f"import os, time; open({str(marks)!r}, 'w').write(str(os.getpid())); print('ready', flush=True); "
        "time.sleep(60)",
    )

    def interrupt(line: str) -> None:
        if line == "ready":
            os.kill(os.getpid(), signal.SIGINT)

    started = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            rebuild_engine(engine, RECORD, interrupt)
    finally:
        signal.signal(signal.SIGINT, started)
    with pytest.raises(ProcessLookupError):
        os.kill(int(marks.read_text()), 0)
    marks.unlink()
    assert nothing_changed(engine)


def test_a_build_that_does_not_listen_is_ended_with_what_it_started(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(worker.pid, flush=True); worker.wait()"
    )
    child(monkeypatch, program)
    monkeypatch.setattr(trt_rebuild, "_PATIENCE", 0.1)
    workers: list[int] = []

    def fail(line: str) -> None:
        if line.isdigit():
            workers.append(int(line))
            message = "the screen is gone"
            raise ValueError(message)

    with pytest.raises(ValueError, match="the screen is gone"):
        rebuild_engine(engine, RECORD, fail)
    assert len(workers) == 1
    deadline = time.monotonic() + 10
    while running(workers[0]):
        assert time.monotonic() < deadline
    assert nothing_changed(engine)


def running(process: int) -> bool:
    """Whether a process computes still; one that ended may wait for its new parent to notice."""
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_engine_that_lies_in_no_writable_folder_is_said(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    asked = child(monkeypatch, WRITE)
    monkeypatch.setattr(trt_rebuild.tempfile, "mkdtemp", refuse)
    with pytest.raises(EngineError, match=r"cannot be written \(Read-only file system\)"):
        rebuild_engine(engine, RECORD)
    assert asked == []
