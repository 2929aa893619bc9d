"""Errors: exit codes, the tree in the docstring, and what a command does with each."""

import inspect
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

from deepir import errors
from deepir.errors import DeepIRError, reports_errors

EXIT_CODES = {
    "DeepIRError": 1,
    "OptionError": 2,
    "SpecError": 2,
    "InputError": 3,
    "ModelError": 3,
    "ShapeError": 3,
    "MissingDependency": 4,
    "EngineError": 5,
    "GateError": 6,
    "SourceError": 7,
    "IndexFileError": 8,
    "IndexModelError": 8,
    "IndexBusyError": 8,
    "MemoryLimitError": 9,
}
CLASSES = dict(inspect.getmembers(errors, lambda member: inspect.isclass(member) and issubclass(member, DeepIRError)))


def run_command_that_raises(error: BaseException) -> Result:
    @click.command()
    @reports_errors
    def command() -> None:
        raise error

    return CliRunner().invoke(command)


def test_the_tree_holds_these_classes_and_no_others() -> None:
    assert set(CLASSES) == set(EXIT_CODES)


@pytest.mark.parametrize("name", EXIT_CODES)
def test_each_class_has_its_exit_code(name: str) -> None:
    assert CLASSES[name].exit_code == EXIT_CODES[name]


@pytest.mark.parametrize("name", EXIT_CODES)
def test_the_drawing_of_the_tree_states_each_exit_code(name: str) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if name in line.replace("─", " ").split())
    assert f" {EXIT_CODES[name]}  " in line


@pytest.mark.parametrize("name", EXIT_CODES)
def test_a_command_reports_its_error_as_one_sentence_with_the_exit_code(name: str) -> None:
    result = run_command_that_raises(CLASSES[name]("the value 7 is odd: give an even one"))
    assert (result.exit_code, result.stderr) == (EXIT_CODES[name], "error: the value 7 is odd: give an even one\n")


@pytest.mark.parametrize(
    ("error", "exit_code", "sentence"),
    [
        (MemoryError(), 9, "error: out of memory: use smaller images or a smaller batch\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (PermissionError(13, "Permission denied", "locked.onnx"), 3, "error: locked.onnx: Permission denied\n"),
        (OSError(28, "No space left on device"), 3, "error: system: No space left on device\n"),
        (OSError("the camera said no"), 3, "error: system: the camera said no\n"),
    ],
)
def test_an_error_of_the_system_is_one_sentence_too(error: BaseException, exit_code: int, sentence: str) -> None:
    result = run_command_that_raises(error)
    assert (result.exit_code, result.stderr) == (exit_code, sentence)


def test_an_error_that_nobody_foresaw_keeps_its_traceback() -> None:
    result = run_command_that_raises(ZeroDivisionError("a bug"))
    assert isinstance(result.exception, ZeroDivisionError)


def test_clicks_own_errors_stay_clicks() -> None:
    result = run_command_that_raises(click.UsageError("no such option"))
    assert (result.exit_code, "Usage:" in result.stderr) == (2, True)


def test_the_original_error_is_not_shown_with_the_sentence() -> None:
    @reports_errors
    def command() -> None:
        message = "short"
        raise DeepIRError(message)

    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.__suppress_context__


def test_what_the_command_returns_and_is_called_is_kept() -> None:
    def command(count: int) -> int:
        """Double it."""
        return 2 * count

    wrapped = reports_errors(command)
    assert (wrapped(4), wrapped.__name__, wrapped.__doc__) == (8, "command", "Double it.")


def test_a_reader_that_leaves_early_ends_the_command_in_silence() -> None:
    program = (
        "import click\n"
        "from deepir.errors import reports_errors\n"
        "@reports_errors\n"
        "def command():\n"
        "    for _ in range(100_000):\n"
        "        click.echo('line')\n"
        "command()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "line\n"
    writer.stdout.close()
    assert writer.stderr is not None
    stderr = writer.stderr.read()
    writer.stderr.close()
    assert (writer.wait(), stderr) == (0, "")
