"""What `import deepir.runtime` loads, and in which order heavy packages may follow."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "cv2", "onnxruntime", "rich", "tensorrt")


def _python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    program = f"import sys, deepir.runtime; print([name for name in {HEAVY} if name in sys.modules])"
    assert _python(program).stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["cli", "index_cli"])
def test_the_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    program = (
        f"import sys, deepir.runtime.{command} as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"assert not [name for name in {HEAVY} if name in sys.modules]"
    )
    result = _python(program)
    assert result.returncode == 0, result.stderr
    assert "Example:" in result.stdout


def test_onnxruntime_survives_being_imported_after_an_index_was_used() -> None:
    # without the precaution in store.py this is SIGSEGV with usearch 2.26.6 and onnxruntime 1.31.1
    program = (
        "from deepir.runtime.codes import Codes\nfrom deepir.runtime.store import DescriptorStore\n"
        "DescriptorStore.empty(Codes('i8', 8))\nimport onnxruntime"
    )
    result = _python(program)
    assert result.returncode == 0, result.stderr
